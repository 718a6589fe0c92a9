#include "plan/traffic.h"

#include <algorithm>
#include <bit>
#include <map>
#include <utility>

#include "base/exact_sum.h"
#include "model/layers.h"
#include "model/params.h"
#include "mpi/group.h"
#include "ops/head.h"

namespace contender {
namespace {

constexpr double kFloat = 4;

}  // namespace

void Traffic::add(const char* phase, const char* name, const char* group, int ranks, double count,
                  double bytes) {
  if (ranks == 1 || count == 0) return;
  for (TrafficItem& i : items_) {
    if (i.phase == phase && i.name == name) {
      i.count += count;
      i.bytes += bytes;
      return;
    }
  }
  items_.push_back({phase, name, group, ranks, count, bytes});
}

// Every rank sends its own rows to the tp - 1 others; a reduce-scatter sends the others' rows, as many when
// ranks own equally many.
void Traffic::gather(const char* phase, const PhaseTokens& t, double times, double cols) {
  add(phase, "tp_gather", "tp", mesh_.tp, t.passes * times, t.own * (mesh_.tp - 1) * cols * kFloat);
}
void Traffic::reduce(const char* phase, const PhaseTokens& t, double times, double cols) {
  add(phase, "tp_reduce", "tp", mesh_.tp, t.passes * times, t.own * (mesh_.tp - 1) * cols * kFloat);
}

double Traffic::moe_layers() const {
  double n = 0;
  for (int64_t l = 0; l < m_.num_hidden_layers; ++l) n += m_.moe_layer(l) ? 1 : 0;
  return n;
}

// Rows of balanced experts: of a token's top_k copies the share (ep - 1) / ep leaves the rank, and comes
// back.
void Traffic::experts(const char* phase, const char* there, const char* back, const PhaseTokens& t,
                      double there_cols) {
  const double layers = moe_layers(), ep = mesh_.ep;
  const double count = t.passes * layers * static_cast<double>(c_.mesh.moe_chunks);
  const double rows = t.own * layers * static_cast<double>(m_.num_experts_per_tok) * (ep - 1) / ep;
  add(phase, there, "ep", mesh_.ep, count, rows * there_cols * kFloat);
  add(phase, back, "ep", mesh_.ep, count, rows * static_cast<double>(m_.hidden_size) * kFloat);
}

// Columns, as many as floats would take, of a row that products read: codes with their scales where they are
// FP8.
double Traffic::read_cols(int64_t cols) const {
  if (c_.train.precision != "fp8") return static_cast<double>(cols);
  return static_cast<double>(code_row_bytes(cols)) / kFloat;
}
double Traffic::qkv_cols() const {
  return m_.attention_bias ? static_cast<double>(m_.hidden_size) : read_cols(m_.hidden_size);
}

void Traffic::blocks(const char* phase, const PhaseTokens& t) {
  const double h = static_cast<double>(m_.hidden_size), layers = static_cast<double>(m_.num_hidden_layers);
  const double kv = static_cast<double>(m_.kv_lora_rank + m_.qk_rope_head_dim);
  const bool apart =
      c_.train.precision == "fp8" && m_.q_lora_rank > 0;  // the query's latent travels as codes
  const double with_kv = apart ? 0 : static_cast<double>(m_.q_lora_rank);
  gather(phase, t, layers, layers * (m_.mla() ? kv + with_kv : qkv_cols()));
  if (m_.mla() && apart) gather(phase, t, layers, layers * read_cols(m_.q_lora_rank));
  if (m_.mla() && m_.q_lora_rank == 0) gather(phase, t, layers, layers * read_cols(m_.hidden_size));
  reduce(phase, t, layers, layers * h);
  gather(phase, t, dense_layers(), dense_layers() * read_cols(m_.hidden_size));
  reduce(phase, t, dense_layers(), dense_layers() * h);
  experts(phase, "dispatch", "combine", t, read_cols(m_.hidden_size));
}

void Traffic::forward(const char* phase, const PhaseTokens& t, bool sampling) {
  const double h = static_cast<double>(m_.hidden_size);
  reduce(phase, t, 1, h);  // embedding
  blocks(phase, t);
  gather(phase, t, 1, h);  // before the head
  const double tp = mesh_.tp, slices = static_cast<double>(virtual_slices(m_)) / tp;
  const double row =
      sampling ? static_cast<double>(m_.vocab_size) / tp * kFloat : slices * sizeof(HeadPartial);
  add(phase, sampling ? "tp_logits" : "tp_head", "tp", mesh_.tp, t.passes, t.head_rows * row * (tp - 1));
}

void Traffic::backward(const char* phase, const PhaseTokens& t) {
  const double h = static_cast<double>(m_.hidden_size), layers = static_cast<double>(m_.num_hidden_layers);
  const double latents = static_cast<double>(m_.q_lora_rank + m_.kv_lora_rank + m_.qk_rope_head_dim);
  const bool selective = c_.train.recompute == "selective";
  if (c_.train.recompute == "full") blocks(phase, t);
  reduce(phase, t, 1, h);  // head
  gather(phase, t, layers, layers * h);
  reduce(phase, t, layers, layers * (m_.mla() ? latents : h));
  if (m_.mla() && m_.q_lora_rank == 0) reduce(phase, t, layers, layers * h);
  if (!m_.mla() && selective) gather(phase, t, layers, layers * qkv_cols());
  gather(phase, t, dense_layers(), dense_layers() * h);
  if (selective) gather(phase, t, dense_layers(), dense_layers() * read_cols(m_.hidden_size));
  reduce(phase, t, dense_layers(), dense_layers() * h);
  experts(phase, "dispatch_grad", "combine_grad", t, h);
  gather(phase, t, 1, h);  // embedding
}

// Gradient planes are reduced in every round to shards, updated shards are gathered once.
void Traffic::optimizer(const char* phase, double rounds) {
  std::map<std::pair<int64_t, ParamKind>, std::map<int64_t, double>>
      buckets;  // (layer, kind): uses -> elements
  for (const ParamSpec& s : param_specs(m_, {mesh_.tp, 0, mesh_.ep, 0})) {
    buckets[{s.layer, s.kind}][s.uses] += static_cast<double>(s.numel());
  }
  for (const auto& [place, sizes] : buckets) {
    const ParamKind kind = place.second;
    const int ranks = kind == ParamKind::kTokenWise ? mesh_.np()
                      : kind == ParamKind::kTensor  ? mesh_.dp
                                                    : mesh_.edp;
    const char* group = kind == ParamKind::kTokenWise ? "world" : kind == ParamKind::kTensor ? "dp" : "edp";
    const double others = static_cast<double>(ranks - 1) / ranks;
    const std::string reduce_name = std::string("reduce (") + group + ")",
                      gather_name = std::string("gather_weights (") + group + ")";
    for (const auto& [uses, elements] : sizes) {
      add(phase, reduce_name.c_str(), group, ranks, rounds * static_cast<double>(uses),
          rounds * static_cast<double>(uses) * elements * others * kFloat);
      add(phase, gather_name.c_str(), group, ranks, 1, elements * others * kFloat);
    }
  }
  const double doublings = std::bit_width(static_cast<unsigned>(mesh_.np())) - 1;
  add(phase, "grad_norm", "world", mesh_.np(), 1, doublings * sizeof(ExactSum));
  if (moe_layers() > 0) {
    add(phase, "expert_load", "world", mesh_.np(), moe_layers(),
        moe_layers() * doublings * static_cast<double>(m_.n_routed_experts) * sizeof(int64_t));
  }
}

void Traffic::share(const char* phase, const char* name, double total_bytes) {
  const int np = mesh_.np();
  add(phase, name, "world", np, 1, total_bytes / np * (np - 1));
}

}  // namespace contender
