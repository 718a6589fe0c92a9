#include "ops/sampling.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/philox.h"
#include "cpu/cpu_ops.h"
#include "cpu/softmax_slice.h"
#include "cpu/vec_loop.h"

namespace contender::cpu {
namespace {

constexpr int32_t kMaxSlices = 64;

// One row of logits on its way to a token. Candidates are the ids below `limit`; a weight is exp(z - max), 0
// where it was cut.
struct Row {
  const float* logits;
  int64_t limit;
  float inv_temperature;
  float max;               // of z over the candidates
  float* weight;           // [limit]
  int32_t* order;          // [limit], candidates to be sorted
  bool truncated = false;  // some candidate, or an id past `limit`, has lost its probability
};

void cut(Row& row, int64_t id) {
  row.weight[id] = 0.0f;
  row.truncated = true;
}

void compute_weights(Row& row) {
  row.max = max_scaled(row.logits, row.limit, row.inv_temperature);
  if (!std::isfinite(row.max)) fail(ExitCode::kNonFinite, "sampling: every candidate's logit is {}", row.max);
  for_each_vector(row.limit, [&](auto d, int64_t i) HWY_ATTR {
    const auto z = hn::Mul(hn::LoadU(d, row.logits + i), hn::Set(d, row.inv_temperature));
    hn::StoreU(vec_exp(d, hn::Sub(z, hn::Set(d, row.max))), d, row.weight + i);
  });
}

// In double, eight interleaved chains: exact enough that the draw has no bias worth the name.
double sum_weights(const float* weight, int64_t n) {
  double lane[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int64_t j = 0; j < 8; ++j) lane[j] += static_cast<double>(weight[i + j]);
  }
  for (int64_t j = 0; j < n - i; ++j) lane[j] += static_cast<double>(weight[i + j]);
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

// Keeps the shortest list of candidates, most probable first and of two equal ones the lower id, whose
// measures add up to `enough`. The list is cut by buckets of z; only the bucket where it ends is sorted.
template <class Measure>
void keep_most_probable(Row& row, double enough, const Measure& measure) {
  constexpr int32_t kBuckets = 256;
  constexpr float kPerNat = 8;
  const auto bucket_of = [&](int64_t i) {  // monotone in the logit
    const float below_max = row.max - row.logits[i] * row.inv_temperature;
    return static_cast<int32_t>(std::min(below_max * kPerNat, static_cast<float>(kBuckets - 1)));
  };
  double sum[kBuckets] = {};
  for (int64_t i = 0; i < row.limit; ++i) {
    if (row.weight[i] > 0) sum[bucket_of(i)] += measure(row.weight[i]);
  }
  double reached = 0;
  int32_t last = 0;
  while (last < kBuckets && reached + sum[last] < enough) reached += sum[last++];
  if (last == kBuckets) return;

  int32_t* end = row.order;
  for (int64_t i = 0; i < row.limit; ++i) {
    if (row.weight[i] == 0) continue;
    const int32_t bucket = bucket_of(i);
    if (bucket == last) *end++ = static_cast<int32_t>(i);
    if (bucket > last) cut(row, i);
  }
  std::sort(row.order, end, [&](int32_t a, int32_t b) {
    return row.logits[a] != row.logits[b] ? row.logits[a] > row.logits[b] : a < b;
  });
  for (const int32_t* i = row.order; i != end; ++i) {
    if (reached >= enough) {
      cut(row, *i);
    } else {
      reached += measure(row.weight[*i]);
    }
  }
}

// The maximum's weight is 1, so p >= min_p * max p is weight >= min_p.
void keep_above(Row& row, float min_p) {
  float* weight = row.weight;
  int32_t cut_some = 0;
  for (int64_t i = 0; i < row.limit; ++i) {
    cut_some |= static_cast<int32_t>(weight[i] > 0) & static_cast<int32_t>(weight[i] < min_p);
    weight[i] = weight[i] < min_p ? 0.0f : weight[i];
  }
  row.truncated |= cut_some != 0;
}

void truncate(Row& row, const SampleParams& params) {
  if (params.top_k > 0) keep_most_probable(row, params.top_k, [](float) { return 1.0; });
  if (params.top_p < 1) {
    const double enough = static_cast<double>(params.top_p) * sum_weights(row.weight, row.limit);
    keep_most_probable(row, enough, [](float w) { return static_cast<double>(w); });
  }
  if (params.min_p > 0) keep_above(row, params.min_p);
}

// Uniform in (0, 1), 52 bits, centred.
double uniform(const SampleKey& key) {
  const PhiloxBlock b = philox(key.seed, RandomStream::kSample, uint64_t{key.step} << 32 | key.prompt,
                               key.sample, key.position);
  const uint64_t bits = (uint64_t{b[0]} << 32 | b[1]) >> 12;
  return (static_cast<double>(bits) + 0.5) * 0x1p-52;
}

// Inverse CDF in ascending id: whole blocks first, then one by one.
int32_t draw(const Row& row, double total, double u) {
  constexpr int64_t kBlock = 256;
  const double at = u * total;
  double below = 0;
  int64_t begin = 0;
  for (; begin + kBlock < row.limit; begin += kBlock) {
    const double block = sum_weights(row.weight + begin, kBlock);
    if (below + block > at) break;
    below += block;
  }
  int64_t last = -1;
  for (int64_t i = begin; i < row.limit; ++i) {
    if (row.weight[i] == 0) continue;
    last = i;
    below += static_cast<double>(row.weight[i]);
    if (below > at) break;
  }
  // Rounding may put `at` past the end: then it is the last candidate, whose block may have been passed over.
  for (int64_t i = begin; last < 0; --i) last = row.weight[i] == 0 ? -1 : i;
  return static_cast<int32_t>(last);
}

void check_params(const SampleParams& p) {
  CHECK(p.temperature >= 0 && std::isfinite(1 / (p.temperature == 0 ? 1 : p.temperature)), "temperature {}",
        p.temperature);
  CHECK(p.top_k >= 0 && p.top_p > 0 && p.top_p <= 1 && p.min_p >= 0 && p.min_p <= 1,
        "top_k {} top_p {} min_p {}", p.top_k, p.top_p, p.min_p);
}

}  // namespace

void sample(const Exec& exec, const SampleArgs& args) {
  const int64_t vocab = args.logits.cols, width = div_exact(vocab, args.slices);
  CHECK(args.slices <= kMaxSlices && std::has_single_bit(static_cast<uint32_t>(args.slices)), "slices {}",
        args.slices);
  CHECK(exec.workspace_bytes >= sample_workspace_bytes(vocab), "workspace of {} bytes, needed {}",
        exec.workspace_bytes, sample_workspace_bytes(vocab));
  const int64_t limit = args.vocab_limit == 0 ? vocab : args.vocab_limit;
  CHECK(0 < limit && limit <= vocab, "vocab_limit {} of {}", limit, vocab);
  float* weight = static_cast<float*>(exec.workspace);
  int32_t* order = reinterpret_cast<int32_t*>(weight + round_up(vocab, 16));

  for (int64_t r = 0; r < args.logits.rows; ++r) {
    const SampleParams& params = args.params[r];
    check_params(params);
    const bool greedy = params.temperature == 0;
    Row row = {.logits = args.logits.row(r),
               .limit = limit,
               .inv_temperature = greedy ? 1.0f : 1.0f / params.temperature,
               .max = 0,
               .weight = weight,
               .order = order,
               .truncated = limit < vocab};
    HeadPartial partials[kMaxSlices];
    for (int64_t s = 0; s < args.slices; ++s) {
      partials[s] = slice_partial(row.logits + s * width, width, row.inv_temperature, -1);
    }
    const float lse = finish_row(partials, args.slices).lse;
    if (!std::isfinite(lse))
      fail(ExitCode::kNonFinite, "sampling: logits of row {} are not finite (log-sum-exp {})", r, lse);

    double total = 1;
    int32_t token;
    if (greedy) {
      token = static_cast<int32_t>(
          std::find(row.logits, row.logits + limit, max_scaled(row.logits, limit, 1.0f)) - row.logits);
    } else {
      compute_weights(row);
      truncate(row, params);
      total = sum_weights(weight, limit);
      token = draw(row, total, uniform(args.keys[r]));
    }
    const float z = row.logits[token] * row.inv_temperature;
    partials[token / width].target_z = z;
    args.token[r] = token;
    args.logp[r] = finish_row(partials, args.slices).logp;
    if (greedy) {
      args.logp_sampled[r] = 0.0f;  // the one token that greedy decoding can give
    } else if (!row.truncated) {
      args.logp_sampled[r] = args.logp[r];
    } else {
      args.logp_sampled[r] = static_cast<float>(static_cast<double>(z - row.max) - std::log(total));
    }
  }
}

}  // namespace contender::cpu
