// Rotary position embedding, with the frequency interpolation of YaRN (Peng et al., arXiv 2309.00071) or of
// Llama 3.1 (Dubey et al., arXiv 2407.21783, and its published code).
#pragma once

#include <vector>

#include "ops/exec.h"

namespace contender {

// Where the ramp between interpolated and kept pairs is linear: in the pair's index, or in the turns that it
// makes over the original context.
enum class RopeScaling : uint8_t { kYarn, kLlama3 };

struct RopeConfig {
  int64_t dim = 0;  // rotated dimensions, even
  double theta = 10000.0;
  double yarn_factor = 1.0;  // of either form; 1: plain RoPE
  double original_max_position = 4096;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 1;
  double mscale_all_dim = 1;
  RopeScaling scaling = RopeScaling::kYarn;
};

// Table rows of [cos(dim/2) | sin(dim/2)] for positions [0, max_position), FP32, computed in double.
// cos and sin carry YaRN's ratio mscale(mscale) / mscale(mscale_all_dim).
std::vector<float> rope_table(const RopeConfig& config, int64_t max_position);
// Factor on the attention's softmax scale: (0.1 * mscale_all_dim * ln(factor) + 1)^2, 1 without YaRN.
double yarn_softmax_scale(const RopeConfig& config);

struct RopeArgs {
  Tensor x;  // [T, ...], of each head the `dim` columns from x_heads.column(h)
  Heads x_heads;
  Tensor y;  // [T, ...] where they go, other columns untouched; empty: in place
  Heads y_heads;
  const int32_t* positions = nullptr;  // [T]
  Tensor table;                        // [max_position, dim] from rope_table
  bool interleaved = true;  // pairs (2i, 2i+1) as in DeepSeek; false: (i, i + dim/2) as in Llama / Qwen
  bool inverse = false;     // backward: rotate by -angle
};
// The heads fit the columns of x and y; exit 1 with the numbers otherwise.
void check_rope(const RopeArgs& args);
// A row of the table is read for each token.
Cost rope_cost(int64_t tokens, int64_t num_heads, int64_t dim, DType activation = DType::kF32);

}  // namespace contender
