// Every parameter of a model on one rank: its local shape, who shares its gradient, and where its pieces live
// in the Hugging Face tensors. Weights, checkpoints, initialisation, export and the planner all read this one
// list.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/config.h"

namespace contender {

// Who holds the same parameter, hence over whom its gradient is summed and its optimizer state is sharded
// (ZeRO-2).
enum class ParamKind : uint8_t {
  kTokenWise,  // on every rank, applied to the rank's own tokens: reduced over the world
  kTensor,     // a slice per tp rank, applied to the tokens of the tp group: reduced over dp
  kExpert,     // whole experts per ep rank: reduced over edp
};
inline constexpr int kNumParamKinds = 3;

// Rows [local_row, +rows) x columns [0, cols) of the local storage are rows [hf_row, +rows) x columns
// [hf_col, +cols) of tensor `hf_name`.
struct ParamPiece {
  std::string hf_name;
  int64_t hf_rows = 0, hf_cols = 0;  // whole tensor
  int64_t hf_row = 0, hf_col = 0;
  int64_t local_row = 0;
  int64_t rows = 0, cols = 0;
};

struct ParamSpec {
  std::string name;  // "layers.3.experts.gate_up"
  ParamKind kind = ParamKind::kTokenWise;
  int64_t layer = 0;   // -1 embedding, 0..L-1 blocks, L final norm and head, L+1 MTP
  int64_t groups = 1;  // local experts or heads, each [n, k]
  int64_t n = 0, k = 0;
  int64_t uses = 1;     // gradient planes: independent uses whose gradients are summed after the reduction
  bool packed = false;  // read by products (has forward / backward packed forms)
  bool fp8 = false;     // of the linear layers that train.precision = "fp8" makes FP8 products
  bool forward_transposed =
      false;            // the forward reads the backward form too (MLA's W_UK, absorbed into the query)
  bool decay = true;    // weight decay
  bool ones = false;    // initialised to 1 (norms); otherwise N(0, initializer_range)
  bool zeros = false;   // initialised to 0
  bool frozen = false;  // no gradient: changed by a rule of its own (the router's selection bias)
  std::vector<ParamPiece> pieces;
  int64_t rows() const { return groups * n; }
  int64_t numel() const { return groups * n * k; }
};

// The place of one rank on the mesh, as far as parameters care.
struct ShardPlace {
  int tp = 1, tp_rank = 0;
  int ep = 1, ep_rank = 0;
};

std::vector<ParamSpec> param_specs(const ModelConfig& model, const ShardPlace& place);

}  // namespace contender
