#include "cli/cuda_limits.h"

#include <fmt/format.h>

#include "base/error.h"

namespace contender {
namespace {

constexpr int64_t kPiece = 8;                      // BF16 values that are read together
constexpr int64_t kMaxNorm = 16384;                // columns of RMSNorm
constexpr int64_t kMaxHeadDim = 256;               // of grouped-query attention, and of qk_norm
constexpr int64_t kMaxKey = 576, kMaxValue = 512;  // columns of MLA's keys and values
constexpr int64_t kMaxVocab = 1 << 20;             // of sampling
constexpr int64_t kMaxExperts = 1024, kMaxGroups = 32, kMaxTopK = 32;

class Limits {
 public:
  void multiple(const char* key, int64_t value) {
    if (value % kPiece != 0) add(key, value, fmt::format("a multiple of {}", kPiece));
  }
  void at_most(const char* key, int64_t value, int64_t most) {
    if (value > most) add(key, value, fmt::format("at most {}", most));
  }
  std::vector<std::string> problems;

 private:
  void add(const char* key, int64_t value, const std::string& what) {
    problems.push_back(fmt::format("model.{}: {}: CUDA needs {}", key, value, what));
  }
};

void mla(const ModelConfig& m, Limits& limits) {
  limits.multiple("kv_lora_rank", m.kv_lora_rank);
  limits.multiple("qk_rope_head_dim", m.qk_rope_head_dim);
  limits.at_most("kv_lora_rank", m.kv_lora_rank, kMaxValue);
  limits.at_most("kv_lora_rank + qk_rope_head_dim", m.kv_lora_rank + m.qk_rope_head_dim, kMaxKey);
  limits.at_most("q_lora_rank", m.q_lora_rank, kMaxNorm);
  if (m.mla_form != "expanded") return;
  limits.multiple("qk_nope_head_dim", m.qk_nope_head_dim);
  limits.multiple("v_head_dim", m.v_head_dim);
  limits.at_most("qk_nope_head_dim + qk_rope_head_dim", m.qk_nope_head_dim + m.qk_rope_head_dim, kMaxKey);
  limits.at_most("v_head_dim", m.v_head_dim, kMaxValue);
}

}  // namespace

std::vector<std::string> cuda_problems(const ModelConfig& m) {
  Limits limits;
  limits.multiple("hidden_size", m.hidden_size);
  limits.at_most("hidden_size", m.hidden_size, kMaxNorm);
  limits.at_most("vocab_size", m.vocab_size, kMaxVocab);
  if (m.mla()) {
    mla(m, limits);
  } else {
    limits.multiple("head_dim", m.head_dim);
    limits.at_most("head_dim", m.head_dim, kMaxHeadDim);
  }
  if (m.n_routed_experts > 0) {
    limits.at_most("n_routed_experts", m.n_routed_experts, kMaxExperts);
    limits.at_most("n_group", m.n_group, kMaxGroups);
    limits.at_most("num_experts_per_tok", m.num_experts_per_tok, kMaxTopK);
  }
  return std::move(limits.problems);
}

void require_cuda_takes(const RunConfig& c) {
  const std::vector<std::string> problems = cuda_problems(c.model);
  if (problems.empty()) return;
  std::string text;
  for (const std::string& p : problems) text += (text.empty() ? "" : "; ") + p;
  fail(ExitCode::kConfig, "{}; run.device = \"cpu\" takes every size", text);
}

}  // namespace contender
