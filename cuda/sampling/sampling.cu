// What: one token per row: temperature, top-k, top-p, min-p, one draw by inverse CDF in ascending token
//   order.
// Math: z = logit / T; w = exp(z - max); kept: the shortest list of tokens, by descending logit then
//       ascending id, that has top_k members / top_p of the mass that top-k left; of those w >= min_p.
//       The token is the first whose running sum of kept weights exceeds u * total.
//       logp = z - log sum exp z over the whole row.
// Shapes: logits [B, V] F32; params, keys, token, logp, logp_sampled [B]. No rows are legal.
// Layouts: the row stride is free; 16-byte pieces where rows and slices are made of them, else by
//   element.
// Precision: w in FP32 with the bits of the CPU backend (0 below e^-87); sums of w are integers in
//   units of 2^-shift, below 2^62 in all, so they depend on no order and the cut and the draw are exact
//   in them. The log-sum-exp is in the order of softmax_slice.cuh, which the head shares.
// Schedule: one block a row, passes over the row out of L2. First: block statistics and the arg max.
//   For a cut, no sort: a histogram over 2048 buckets of 1/64 nat below the maximum finds the bucket
//   where the list ends; its members are gathered in shared memory (if too many, the row is read again
//   instead), and digit by digit, 11 bits of key, then of id, the last member is found. Last: kept mass
//   per warp range, then inside one range.
// Roofline: 4 bytes a logit and pass: 2 passes without a cut, 2 more for top-k and 2 more for top-p;
//   about 80 instructions a logit and pass, so instructions bind before memory does.
// Limits: V <= 2^20; slices <= 64. Bad params trap with a line. A row whose log-sum-exp is not finite
//   gets token -1 and NaN: the caller sees it when it reads the token.
// Source: Salmon et al., SC'11 (Philox); ops/sampling.h.
#include <bit>

#include "cuda/common/device_check.cuh"
#include "cuda/common/grid.h"
#include "cuda/common/order.cuh"
#include "cuda/common/philox.cuh"
#include "cuda/common/rows.cuh"
#include "cuda/common/shared_memory.h"
#include "cuda/common/softmax_slice.cuh"
#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "ops/sampling.h"

namespace contender::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxSlices = 64;
constexpr int64_t kMaxVocab = 1 << 20;
constexpr int kBuckets = 2048;
constexpr float kBucketsPerNat = 64;
constexpr int kListed = 2048;
constexpr unsigned kAll = 0xFFFFFFFFu;

struct Crossing {
  int index;
  uint64_t below;  // sum of the values before `index`
};
struct SampleSmem {
  uint64_t warp[kWarps];
  Crossing crossing;
  int num_listed;  // may exceed kListed: then the list is not used
  int listed[kListed];
  uint32_t low[kBuckets], high[kBuckets];  // of 64-bit sums: shared memory adds 32 bits natively
  SoftmaxPartial partials[];               // [slices * blocks of a slice]
};

// What is known of the row; the same in every thread.
struct Row {
  const float* logits;
  int vocab, limit;  // ids below `limit` are candidates
  float inv_temperature;
  float max;   // of z over the candidates
  float unit;  // 2^shift: integer weight of w = 1
  // Kept: key above the cut's, or equal and id not above; and w >= min_p.
  uint32_t cut_key = kNoKey;
  int cut_id = 0;
  float min_p = 0;

  __device__ float z(float logit) const { return __fmul_rn(logit, inv_temperature); }
  __device__ float weight(float logit) const { return exp_below_one(__fsub_rn(z(logit), max)); }
  __device__ uint64_t integer(float w) const { return __float2ull_rn(__fmul_rn(w, unit)); }
  __device__ bool before_cut(float logit, int id) const {
    if (cut_key == kNoKey) return true;
    const uint32_t key = order_key(logit);
    return key > cut_key || (key == cut_key && id <= cut_id);
  }
  // The weight of a candidate that is kept, else 0.
  __device__ float kept_weight(float logit, int id) const {
    if (id < 0 || !before_cut(logit, id)) return 0.0f;
    const float w = weight(logit);
    return w >= min_p ? w : 0.0f;
  }
  // Cut or not, its weight is above 0.
  __device__ bool possible(float logit) const { return !(__fsub_rn(z(logit), max) < -87.0f); }
};

__device__ uint64_t warp_sum(uint64_t v) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(kAll, v, o);
  return v;
}
__device__ uint64_t warp_inclusive_scan(uint64_t v) {
#pragma unroll
  for (int o = 1; o < 32; o <<= 1) {
    const uint64_t left = __shfl_up_sync(kAll, v, o);
    if (static_cast<int>(threadIdx.x % 32) >= o) v += left;
  }
  return v;
}

// f(id, logit) for this thread's candidates of `begin` .. `end`, every thread as often: f may use whole
// warps. Absent ones come as id -1.
template <Access kAccess, class F>
__device__ void for_each_candidate(const Row& row, int begin, int end, int lane, int lanes, const F& f) {
  for (int base = begin; base < end; base += lanes * 4) {
    const int c = base + lane * 4;
    const Vec<float> x = load_piece<kAccess>(row.logits, c, row.vocab);
#pragma unroll
    for (int k = 0; k < 4; ++k) f(c + k < end ? c + k : -1, x.v[k]);
  }
}

// The thread's n consecutive values are the next n of one sequence: finds the first place where the running
// sum reaches `enough` (1 <= enough <= total) and adds to no more. The same result in every thread; false if
// the total is too small. `below` is what came before the sequence.
template <int n>
__device__ bool find_crossing(SampleSmem& smem, const uint64_t (&value)[n], uint64_t below, uint64_t enough,
                              Crossing& found) {
  uint64_t own = 0;
#pragma unroll
  for (int k = 0; k < n; ++k) own += value[k];
  const uint64_t inclusive = warp_inclusive_scan(own);
  __syncthreads();
  if (threadIdx.x % 32 == 31) smem.warp[threadIdx.x / 32] = inclusive;
  if (threadIdx.x == 0) smem.crossing.index = -1;
  __syncthreads();
  const uint64_t scanned = warp_inclusive_scan(smem.warp[threadIdx.x % 32]);
  const int warp = threadIdx.x / 32;
  const uint64_t before_warp = warp == 0 ? 0 : __shfl_sync(kAll, scanned, warp - 1);
  uint64_t sum = below + before_warp + inclusive - own;
  if (sum < enough && enough <= sum + own) {
#pragma unroll
    for (int k = 0; k < n; ++k) {
      if (sum < enough && enough <= sum + value[k])
        smem.crossing = {static_cast<int>(threadIdx.x) * n + k, sum};
      sum += value[k];
    }
  }
  __syncthreads();
  found = smem.crossing;
  return found.index >= 0;
}

// --- pass 1 ---

struct Statistics {
  float lse;
  uint32_t best_key;  // of the candidates
  int best_id;
};

// Trees over `count` partials each, `step` apart, for `trees` trees that begin `count * step` apart.
__device__ void combine_tree(SoftmaxPartial* partials, int trees, int count, int step) {
  for (int stride = 1; stride < count; stride *= 2) {
    __syncthreads();
    for (int i = threadIdx.x; i < trees * count; i += kThreads) {
      if (i % count % (2 * stride) == 0 && i % count + stride < count)
        partials[i * step] = combine_partials(partials[i * step], partials[(i + stride) * step]);
    }
  }
  __syncthreads();
}

template <Access kAccess>
__device__ Statistics row_statistics(SampleSmem& smem, const Row& row, int slices) {
  const int width = row.vocab / slices, blocks = (width + kSoftmaxBlock - 1) / kSoftmaxBlock;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float best_logit = -INFINITY;
  int best_id = 0;
  for (int b = warp; b < slices * blocks; b += kWarps) {
    const int first = b / blocks * width, c = b % blocks * kSoftmaxBlock + 4 * lane;
    Vec<float> x = load_piece<kAccess>(row.logits + first, c, width);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int id = first + c + k;
      if (c + k < width && id < row.limit && x.v[k] > best_logit) {  // ids ascend: the lowest stays
        best_logit = x.v[k];
        best_id = id;
      }
      x.v[k] = row.z(x.v[k]);
    }
    const SoftmaxPartial p = warp_softmax_partial(x, width - c);
    if (lane == 0) smem.partials[b] = p;
  }
  // Key, then the complement of the id: the lowest id of the largest key.
  uint64_t best = uint64_t{order_key(best_logit)} << 32 | (kAll - static_cast<uint32_t>(best_id));
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) best = max(best, __shfl_xor_sync(kAll, best, o));
  if (lane == 0) smem.warp[warp] = best;
  combine_tree(smem.partials, slices, blocks, 1);
  combine_tree(smem.partials, 1, slices, blocks);
  for (uint64_t other : smem.warp) best = max(best, other);
  return {log_sum_exp(smem.partials[0]), static_cast<uint32_t>(best >> 32),
          static_cast<int>(kAll - static_cast<uint32_t>(best))};
}

// --- the cut ---

enum class Measure { kCount, kMass };

template <Measure measure>
__device__ uint64_t measure_of(const Row& row, float w) {
  return measure == Measure::kMass ? row.integer(w) : w > 0 ? 1 : 0;
}

__device__ int bucket_of(const Row& row, float logit) {  // monotone in the logit
  const float below_max = __fsub_rn(row.max, row.z(logit));
  return static_cast<int>(fminf(below_max * kBucketsPerNat, kBuckets - 1));
}

__device__ void clear_histogram(SampleSmem& smem) {
  __syncthreads();
  for (int i = threadIdx.x; i < kBuckets; i += kThreads) smem.low[i] = smem.high[i] = 0;
  __syncthreads();
}
// Whole warps: lanes that all go to one bucket add once. -1: nothing to add.
__device__ void add_to_histogram(SampleSmem& smem, int bucket, uint64_t value) {
  if (__all_sync(kAll, bucket == __shfl_sync(kAll, bucket, 0))) {
    value = warp_sum(value);
    if (threadIdx.x % 32 != 0) return;
  }
  if (bucket < 0 || value == 0) return;
  const uint32_t low = static_cast<uint32_t>(value);
  const uint32_t carry = atomicAdd(&smem.low[bucket], low) > ~low;
  const uint32_t high = static_cast<uint32_t>(value >> 32) + carry;
  if (high != 0) atomicAdd(&smem.high[bucket], high);
}
struct TwoBuckets {
  uint64_t value[2];
};
__device__ TwoBuckets own_buckets(SampleSmem& smem) {
  static_assert(kBuckets == 2 * kThreads);
  __syncthreads();
  const int i = 2 * threadIdx.x;
  return {{uint64_t{smem.high[i]} << 32 | smem.low[i], uint64_t{smem.high[i + 1]} << 32 | smem.low[i + 1]}};
}
__device__ uint64_t block_sum(SampleSmem& smem, uint64_t v) {
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) smem.warp[threadIdx.x / 32] = v;
  __syncthreads();
  return warp_sum(smem.warp[threadIdx.x % 32]);
}

// Digits of a candidate's place in the order, most significant first: ascending, as descending keys and
// ascending ids.
constexpr int kDigits = 5;
__device__ int place_digit(uint32_t key, int id, int digit) {
  const uint32_t down = ~key;
  if (digit == 0) return static_cast<int>(down >> 21);
  if (digit == 1) return static_cast<int>(down >> 10 & 2047);
  if (digit == 2) return static_cast<int>(down & 1023);
  return digit == 3 ? id >> 11 : id & 2047;
}

// Moves the cut to the end of the shortest list of kept candidates that has `share` of their measure (kMass)
// or `share` members (kCount); leaves it where it is if there are fewer.
template <Access kAccess, Measure measure>
__device__ void keep_most_probable(SampleSmem& smem, Row& row, double share) {
  clear_histogram(smem);
  for_each_candidate<kAccess>(row, 0, row.limit, threadIdx.x, kThreads, [&](int id, float logit) {
    const uint64_t value = measure_of<measure>(row, row.kept_weight(logit, id));
    add_to_histogram(smem, value > 0 ? bucket_of(row, logit) : -1, value);
  });
  const TwoBuckets buckets = own_buckets(smem);
  const uint64_t total = block_sum(smem, buckets.value[0] + buckets.value[1]);
  const uint64_t enough =
      static_cast<uint64_t>(measure == Measure::kMass ? ceil(share * static_cast<double>(total)) : share);
  Crossing last;
  if (!find_crossing(smem, buckets.value, 0, enough, last)) return;
  const auto in_last = [&](int id, float logit) {
    return id >= 0 && bucket_of(row, logit) == last.index && row.before_cut(logit, id);
  };
  if (threadIdx.x == 0) smem.num_listed = 0;
  __syncthreads();
  for_each_candidate<kAccess>(row, 0, row.limit, threadIdx.x, kThreads, [&](int id, float logit) {
    if (!in_last(id, logit)) return;
    const int at = atomicAdd(&smem.num_listed, 1);
    if (at < kListed) smem.listed[at] = id;
  });
  __syncthreads();

  int found[kDigits];
  uint64_t below = last.below;
  for (int digit = 0; digit < kDigits; ++digit) {
    const auto add = [&](int id, float logit) {
      bool in = in_last(id, logit);
      const uint32_t key = order_key(logit);
      for (int d = 0; d < digit; ++d) in = in && place_digit(key, id, d) == found[d];
      const uint64_t value = in ? measure_of<measure>(row, row.weight(logit)) : 0;
      add_to_histogram(smem, value > 0 ? place_digit(key, id, digit) : -1, value);
    };
    clear_histogram(smem);
    if (smem.num_listed <= kListed) {
      for (int base = 0; base < smem.num_listed; base += kThreads) {
        const int at = base + threadIdx.x;
        const int id = at < smem.num_listed ? smem.listed[at] : -1;
        add(id, id >= 0 ? row.logits[id] : 0.0f);
      }
    } else {
      for_each_candidate<kAccess>(row, 0, row.limit, threadIdx.x, kThreads, add);
    }
    Crossing place;
    find_crossing(smem, own_buckets(smem).value, below, enough, place);
    found[digit] = place.index;
    below = place.below;
  }
  row.cut_key = ~(static_cast<uint32_t>(found[0]) << 21 | static_cast<uint32_t>(found[1]) << 10 |
                  static_cast<uint32_t>(found[2]));
  row.cut_id = found[3] << 11 | found[4];
}

// --- the draw ---

struct Mass {
  uint64_t total;  // kept, of the row
  uint64_t own;    // kept, of the range of warp threadIdx.x % 32
  bool cut;        // some candidate is not kept
};
__device__ int range_size(const Row& row) {
  return (row.limit + kWarps * kSoftmaxBlock - 1) / (kWarps * kSoftmaxBlock) * kSoftmaxBlock;
}

template <Access kAccess>
__device__ Mass kept_mass(SampleSmem& smem, const Row& row) {
  const int warp = threadIdx.x / 32, size = range_size(row);
  uint64_t sum = 0;
  int cut = 0;
  for_each_candidate<kAccess>(row, min(warp * size, row.limit), min((warp + 1) * size, row.limit),
                              threadIdx.x % 32, 32, [&](int id, float logit) {
                                const float w = row.kept_weight(logit, id);
                                sum += row.integer(w);
                                cut |= id >= 0 && w == 0 && row.possible(logit);
                              });
  sum = warp_sum(sum);
  __syncthreads();
  if (threadIdx.x % 32 == 0) smem.warp[warp] = sum;
  const bool any_cut = __syncthreads_or(cut) != 0;
  const uint64_t own = smem.warp[threadIdx.x % 32];
  return {warp_sum(own), own, any_cut};
}

// The first id whose running kept mass exceeds `at` < total.
template <Access kAccess>
__device__ int draw(SampleSmem& smem, const Row& row, const Mass& mass, uint64_t at) {
  const uint64_t scanned = warp_inclusive_scan(mass.own);
  const int range = __ffs(static_cast<int>(__ballot_sync(kAll, scanned > at))) - 1;
  uint64_t below = __shfl_sync(kAll, scanned - mass.own, range);
  const int size = range_size(row), end = min((range + 1) * size, row.limit);
  for (int base = range * size; base < end; base += 4 * kThreads) {
    const int c = base + 4 * static_cast<int>(threadIdx.x);
    const Vec<float> x = load_piece<kAccess>(row.logits, c, row.vocab);
    uint64_t value[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      value[k] = c + k < end ? row.integer(row.kept_weight(x.v[k], c + k)) : 0;
    }
    Crossing found;
    if (find_crossing(smem, value, below, at + 1, found)) return base + found.index;
    uint64_t all = 0;
    for (uint64_t v : smem.warp) all += v;
    below += all;
  }
  return -1;
}

// floor(total * u), u uniform in (0, 1), 52 bits, centred.
__device__ uint64_t uniform_below(const SampleKey& key, uint64_t total) {
  const uint4 b = philox_words(key.seed, RandomStream::kSample, uint64_t{key.step} << 32 | key.prompt,
                               key.sample, key.position);
  const uint64_t bits = (uint64_t{b.x} << 32 | b.y) >> 12;
  return __umul64hi(total, (2 * bits + 1) << 11);
}

__device__ void check_params(const SampleParams& p) {
  DEVICE_CHECK(p.temperature >= 0 && isfinite(1 / (p.temperature == 0 ? 1 : p.temperature)) && p.top_k >= 0 &&
                   p.top_p > 0 && p.top_p <= 1 && p.min_p >= 0 && p.min_p <= 1,
               "sampling: row %d: temperature %g top_k %d top_p %g min_p %g", static_cast<int>(blockIdx.x),
               static_cast<double>(p.temperature), p.top_k, static_cast<double>(p.top_p),
               static_cast<double>(p.min_p));
}

struct SampleLaunch {
  SampleArgs args;
  int limit;
  int shift;  // of the integer weights
};

// Cuts the row as `params` say; its kept mass.
template <Access kAccess>
__device__ Mass truncate(SampleSmem& smem, Row& row, const SampleParams& params) {
  if (params.top_k > 0) keep_most_probable<kAccess, Measure::kCount>(smem, row, params.top_k);
  if (params.top_p < 1) keep_most_probable<kAccess, Measure::kMass>(smem, row, params.top_p);
  row.min_p = params.min_p;
  return kept_mass<kAccess>(smem, row);
}

template <Access kAccess>
__global__ __launch_bounds__(kThreads) void sample_kernel(const __grid_constant__ SampleLaunch launch) {
  extern __shared__ uint4 dynamic[];
  SampleSmem& smem = *reinterpret_cast<SampleSmem*>(dynamic);
  const SampleArgs& a = launch.args;
  const int r = blockIdx.x;
  const SampleParams params = a.params[r];
  check_params(params);
  const bool greedy = params.temperature == 0;
  Row row = {.logits = row_of<float>(a.logits, r),
             .vocab = static_cast<int>(a.logits.cols),
             .limit = launch.limit,
             .inv_temperature = greedy ? 1.0f : __fdiv_rn(1.0f, params.temperature),
             .max = 0,
             .unit = ldexpf(1.0f, launch.shift)};
  const Statistics s = row_statistics<kAccess>(smem, row, a.slices);
  row.max = row.z(key_value(s.best_key));
  int token = -1;
  float logp = NAN, logp_sampled = NAN;
  if (isfinite(s.lse) && (greedy || isfinite(row.max))) {
    token = s.best_id;
    logp_sampled = 0.0f;  // the one token that greedy decoding can give
    Mass mass = {};
    if (!greedy) {
      mass = truncate<kAccess>(smem, row, params);
      token = draw<kAccess>(smem, row, mass, uniform_below(a.keys[r], mass.total));
    }
    const float z = row.z(row.logits[token]);
    logp = __fsub_rn(z, s.lse);
    if (!greedy) {
      const double total = ldexp(static_cast<double>(mass.total), -launch.shift);
      const bool truncated = mass.cut || row.limit < row.vocab;
      logp_sampled =
          truncated ? static_cast<float>(static_cast<double>(__fsub_rn(z, row.max)) - log(total)) : logp;
    }
  }
  if (threadIdx.x == 0) {
    a.token[r] = token;
    a.logp[r] = logp;
    a.logp_sampled[r] = logp_sampled;
  }
}

}  // namespace

void sample(const Exec& exec, const SampleArgs& args) {
  const int64_t vocab = args.logits.cols, width = div_exact(vocab, args.slices);
  CHECK(args.slices <= kMaxSlices && std::has_single_bit(static_cast<uint32_t>(args.slices)), "slices {}",
        args.slices);
  CHECK(args.logits.dtype == DType::kF32, "logits {}: log-probs need F32", dtype_name(args.logits.dtype));
  const int64_t limit = args.vocab_limit == 0 ? vocab : args.vocab_limit;
  CHECK(0 < limit && limit <= vocab && vocab <= kMaxVocab, "vocab_limit {} of {}, at most {}", limit, vocab,
        kMaxVocab);
  if (args.logits.rows == 0) return;
  const SampleLaunch launch = {.args = args,
                               .limit = static_cast<int>(limit),
                               .shift = 62 - static_cast<int>(std::bit_width(static_cast<uint64_t>(limit)))};
  const int bytes = narrow<int32_t>(static_cast<int64_t>(sizeof(SampleSmem)) +
                                    args.slices * ceil_div(width, kSoftmaxBlock) *
                                        static_cast<int64_t>(sizeof(SoftmaxPartial)));
  with_access(in_pieces(args.logits) && width % 4 == 0, [&](auto access) {
    allow_shared_memory<sample_kernel<access()>>();
    sample_kernel<access()>
        <<<grid_size(args.logits.rows, 1), kThreads, static_cast<size_t>(bytes), stream_of(exec)>>>(launch);
  });
  CUDA_CHECK_LAUNCH();
}

}  // namespace contender::cuda
