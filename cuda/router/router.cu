// What: MoE routing: scores, group-limited top-k, weights, and the gradient of the logits.
// Math: s = sigmoid(logits) or softmax(logits); experts are chosen by s + bias;
//       w_j = s_j / (sum s + 1e-20) * scale, or s_j * scale without normalisation.
//       ds_j = scale / sum * (dw_j - sum_k dw_k s_k / sum), or scale * dw_j; then
//       sigmoid: dl = ds s (1 - s);  softmax: dl_e = s_e (ds_e - sum_k ds_k s_k).
// Shapes: logits and scores [T, E], expert and weight [T, top_k]; no tokens are legal.
// Layouts: row strides are free; rows of whole aligned pieces are read four columns at a time. logits
//   and dlogits are F32 or BF16, everything else F32.
// Precision: FP32. Sigmoid scores, and so selection and weights, have the bits of the CPU backend; the
//   sum of the softmax is a chain per lane and one tree over the lanes. Sums over the selected experts
//   are chains in their order.
// Schedule: one warp a token, the row in registers (column 128 i + 4 lane + k). Selection is top_k
//   rounds of a warp maximum over keys of the scores' order and a warp minimum over the indices that
//   have it: the lower index wins ties. Groups are ranked likewise. A NaN ranks below every number. No
//   shared memory, no atomics.
// Roofline: 8 bytes an expert and token, but some 2000 warp instructions a token with 8 of 256 in 8
//   groups: bound by instructions, not by memory, on H800 and H200.
// Limits: 1024 experts, 32 groups, top_k 32.
// Source: DeepSeek-V3 (arXiv 2412.19437), section 2.1.2; ops/router.h.
#include "cuda/common/exp.cuh"
#include "cuda/common/grid.h"
#include "cuda/common/order.cuh"
#include "cuda/common/rows.cuh"
#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "ops/router.h"

namespace contender::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxExperts = 1024;
constexpr int kMaxGroups = 32;
constexpr int kMaxTopK = 32;
constexpr float kNormEpsilon = 1e-20f;
constexpr unsigned kAll = 0xFFFFFFFFu;

// A row of E values: kQuads quads a lane.
template <int kQuads>
struct Row {
  float v[4 * kQuads];
};
// Expert of a lane's i-th value.
__device__ int expert_of(int i) { return 128 * (i / 4) + 4 * (threadIdx.x % 32) + i % 4; }
__device__ int owner_of(int expert) { return expert / 4 % 32; }

template <int kQuads, Access kAccess, class T>
__device__ Row<kQuads> load_row(const T* row, int experts) {
  Row<kQuads> r;
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
    const float4 x = load_quad_piece<kAccess>(row, expert_of(4 * q), experts);
    r.v[4 * q] = x.x;
    r.v[4 * q + 1] = x.y;
    r.v[4 * q + 2] = x.z;
    r.v[4 * q + 3] = x.w;
  }
  return r;
}
template <Access kAccess, int kQuads, class T>
__device__ void store_row(T* row, int experts, const Row<kQuads>& r) {
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
    const float4 x = make_float4(r.v[4 * q], r.v[4 * q + 1], r.v[4 * q + 2], r.v[4 * q + 3]);
    store_quad_piece<kAccess>(row, expert_of(4 * q), experts, x);
  }
}

// The value of `expert`, in every lane.
template <int kQuads>
__device__ float value_of(const Row<kQuads>& r, int expert) {
  float v = 0;
#pragma unroll
  for (int i = 0; i < 4 * kQuads; ++i) v = expert_of(i) == expert ? r.v[i] : v;
  return __shfl_sync(kAll, v, owner_of(expert));
}

template <int kQuads>
__device__ void score_row(ScoreFunc f, Row<kQuads>& r, int experts) {
  if (f == ScoreFunc::kSigmoid) {
#pragma unroll
    for (int i = 0; i < 4 * kQuads; ++i) r.v[i] = sigmoid_f32(r.v[i]);
    return;
  }
  float max = -INFINITY, sum = 0;
#pragma unroll
  for (int i = 0; i < 4 * kQuads; ++i) max = expert_of(i) < experts ? fmaxf(max, r.v[i]) : max;
  max = warp_reduce_max(max);
#pragma unroll
  for (int i = 0; i < 4 * kQuads; ++i) {
    r.v[i] = exp_f32(__fsub_rn(r.v[i], max));
    if (expert_of(i) < experts) sum += r.v[i];
  }
  sum = warp_reduce_sum(sum);
#pragma unroll
  for (int i = 0; i < 4 * kQuads; ++i) r.v[i] = __fdiv_rn(r.v[i], sum);
}

template <int kQuads>
struct Keys {
  uint32_t v[4 * kQuads];
};

// Score of the experts [begin, end) as a group: the sum of the two largest, or the largest.
template <int kQuads>
__device__ uint32_t group_key(GroupScore kind, const Keys<kQuads>& keys, int begin, int end) {
  uint32_t first = kNoKey, second = kNoKey;
#pragma unroll
  for (int i = 0; i < 4 * kQuads; ++i) {
    const uint32_t key = begin <= expert_of(i) && expert_of(i) < end ? keys.v[i] : kNoKey;
    second = max(second, min(first, key));
    first = max(first, key);
  }
  const uint32_t best = __reduce_max_sync(kAll, first);
  if (kind == GroupScore::kMax || end - begin == 1) return best;
  const int owner = __ffs(static_cast<int>(__ballot_sync(kAll, first == best))) - 1;
  const uint32_t rest = static_cast<int>(threadIdx.x % 32) == owner ? second : first;
  return order_key(__fadd_rn(key_value(best), key_value(__reduce_max_sync(kAll, rest))));
}

// Leaves keys only to the experts of the best groups.
template <int kQuads>
__device__ void keep_groups(const RouterShape& s, Keys<kQuads>& keys) {
  const int groups = static_cast<int>(s.n_group), size = static_cast<int>(s.num_experts / s.n_group);
  const int lane = threadIdx.x % 32;
  uint32_t score = kNoKey;  // of group `lane`
  for (int g = 0; g < groups; ++g) {
    const uint32_t key = group_key(s.group_score, keys, g * size, (g + 1) * size);
    if (lane == g) score = key;
  }
  uint32_t kept = 0;
  for (int i = 0; i < static_cast<int>(s.topk_group); ++i) {
    const uint32_t best = __reduce_max_sync(kAll, score);
    const int group = __ffs(static_cast<int>(__ballot_sync(kAll, score == best))) - 1;
    kept |= 1u << group;
    if (lane == group) score = kNoKey;
  }
#pragma unroll
  for (int i = 0; i < 4 * kQuads; ++i) {
    if (expert_of(i) < static_cast<int>(s.num_experts) && !(kept >> (expert_of(i) / size) & 1))
      keys.v[i] = kNoKey;
  }
}

// Takes the expert of the largest key out of `keys`; the lower index wins ties.
template <int kQuads>
__device__ int take_best(Keys<kQuads>& keys) {
  uint32_t key = kNoKey;
  int at = 0;
#pragma unroll
  for (int i = 0; i < 4 * kQuads; ++i) {
    at = keys.v[i] > key ? expert_of(i) : at;
    key = max(key, keys.v[i]);
  }
  const uint32_t best = __reduce_max_sync(kAll, key);
  const int expert =
      static_cast<int>(__reduce_min_sync(kAll, key == best ? static_cast<unsigned>(at) : kAll));
#pragma unroll
  for (int i = 0; i < 4 * kQuads; ++i) keys.v[i] = expert_of(i) == expert ? kNoKey : keys.v[i];
  return expert;
}

template <class T, int kQuads, Access kAccess>
__global__ __launch_bounds__(kThreads) void router_kernel(const __grid_constant__ RouterArgs a) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (t >= a.logits.rows) return;
  const RouterShape& s = a.shape;
  const int experts = static_cast<int>(s.num_experts), top_k = static_cast<int>(s.top_k),
            lane = threadIdx.x % 32;
  Row<kQuads> scores = load_row<kQuads, kAccess>(row_of<T>(a.logits, t), experts);
  score_row(s.score_func, scores, experts);
  store_row<kAccess>(row_of<float>(a.scores, t), experts, scores);

  Keys<kQuads> keys;
#pragma unroll
  for (int i = 0; i < 4 * kQuads; ++i) {
    const int e = expert_of(i);
    const float biased = a.bias && e < experts ? __fadd_rn(scores.v[i], a.bias[e]) : scores.v[i];
    keys.v[i] = e < experts ? order_key(biased) : kNoKey;
  }
  if (s.topk_group < s.n_group) keep_groups(s, keys);
  int expert = 0;
  float score = 0, sum = 0;  // expert and score of rank `lane`
  for (int j = 0; j < top_k; ++j) {
    const int best = take_best(keys);
    const float value = value_of(scores, best);
    sum = __fadd_rn(sum, value);
    expert = lane == j ? best : expert;
    score = lane == j ? value : score;
  }
  const float divisor = s.norm_topk_prob ? __fadd_rn(sum, kNormEpsilon) : 1.0f;
  if (lane < top_k) {
    row_of<int32_t>(a.expert, t)[lane] = expert;
    row_of<float>(a.weight, t)[lane] = __fmul_rn(__fdiv_rn(score, divisor), s.scale);
  }
}

// sum_j x_j y_j over the lanes j < count, in that order; in every lane.
__device__ float ordered_dot(float x, float y, int count) {
  const float product = __fmul_rn(x, y);
  float sum = 0;
  for (int j = 0; j < count; ++j) sum = __fadd_rn(sum, __shfl_sync(kAll, product, j));
  return sum;
}

template <class T, int kQuads, Access kAccess>
__global__ __launch_bounds__(kThreads) void router_bwd_kernel(const __grid_constant__ RouterBwdArgs a) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (t >= a.dlogits.rows) return;
  const RouterShape& s = a.shape;
  const int experts = static_cast<int>(s.num_experts), top_k = static_cast<int>(s.top_k),
            lane = threadIdx.x % 32;
  const Row<kQuads> scores = load_row<kQuads, kAccess>(row_of<float>(a.scores, t), experts);
  const int expert = lane < top_k ? row_of<int32_t>(a.expert, t)[lane] : 0;
  const float dweight = lane < top_k ? row_of<float>(a.dweight, t)[lane] : 0.0f;
  float score = 0;  // of rank `lane`
  for (int j = 0; j < top_k; ++j) {
    const float value = value_of(scores, __shfl_sync(kAll, expert, j));
    score = lane == j ? value : score;
  }
  const float divisor = s.norm_topk_prob ? __fadd_rn(ordered_dot(score, 1.0f, top_k), kNormEpsilon) : 1.0f;
  const float mean = s.norm_topk_prob ? ordered_dot(dweight, __fdiv_rn(score, divisor), top_k) : 0.0f;
  const float dscore = __fmul_rn(__fdiv_rn(s.scale, divisor), __fsub_rn(dweight, mean));
  const bool sigmoid = s.score_func == ScoreFunc::kSigmoid;
  const float projection = sigmoid ? 0.0f : ordered_dot(dscore, score, top_k);

  Row<kQuads> d = {};
  for (int j = 0; j < top_k; ++j) {
    const int e = __shfl_sync(kAll, expert, j);
    const float value = __shfl_sync(kAll, dscore, j);
#pragma unroll
    for (int i = 0; i < 4 * kQuads; ++i) d.v[i] = expert_of(i) == e ? value : d.v[i];
  }
#pragma unroll
  for (int i = 0; i < 4 * kQuads; ++i) {
    const float p = scores.v[i];
    d.v[i] = sigmoid ? __fmul_rn(d.v[i], __fmul_rn(p, __fsub_rn(1.0f, p)))
                     : __fmul_rn(p, __fsub_rn(d.v[i], projection));
  }
  store_row<kAccess>(row_of<T>(a.dlogits, t), experts, d);
}

void check_shape(const RouterShape& s, int64_t logits_cols) {
  CHECK(s.num_experts == logits_cols && 1 <= s.num_experts && s.num_experts <= kMaxExperts,
        "{} experts, {} columns, at most {}", s.num_experts, logits_cols, kMaxExperts);
  CHECK(s.n_group >= 1 && s.n_group <= kMaxGroups && s.num_experts % s.n_group == 0 && 1 <= s.topk_group &&
            s.topk_group <= s.n_group,
        "{} of {} groups of {} experts, at most {} groups", s.topk_group, s.n_group, s.num_experts,
        kMaxGroups);
  CHECK(1 <= s.top_k && s.top_k <= kMaxTopK && s.top_k <= s.topk_group * (s.num_experts / s.n_group),
        "top {} of {} groups of {}, at most {}", s.top_k, s.topk_group, s.num_experts / s.n_group, kMaxTopK);
}

// f(std::integral_constant<int, quads a lane>()).
template <class F>
void with_quads(int64_t experts, const F& f) {
  if (experts <= 128) return f(std::integral_constant<int, 1>());
  if (experts <= 256) return f(std::integral_constant<int, 2>());
  f(std::integral_constant<int, kMaxExperts / 128>());
}

// Rows that load_quad_piece may take whole: four BF16 columns are 8 bytes.
bool in_quads(const Tensor& t) { return in_pieces(t, 4 * dtype_size(t.dtype)); }

}  // namespace

void router(const Exec& exec, const RouterArgs& a) {
  const RouterShape& s = a.shape;
  check_shape(s, a.logits.cols);
  CHECK(a.scores.cols == s.num_experts && a.expert.cols == s.top_k && a.weight.cols == s.top_k &&
            a.scores.rows == a.logits.rows && a.expert.rows == a.logits.rows &&
            a.weight.rows == a.logits.rows,
        "logits [{}, {}], scores [{}, {}], expert [{}, {}], weight [{}, {}]", a.logits.rows, a.logits.cols,
        a.scores.rows, a.scores.cols, a.expert.rows, a.expert.cols, a.weight.rows, a.weight.cols);
  CHECK(a.scores.dtype == DType::kF32 && a.expert.dtype == DType::kI32 && a.weight.dtype == DType::kF32,
        "scores {}, expert {}, weight {}", dtype_name(a.scores.dtype), dtype_name(a.expert.dtype),
        dtype_name(a.weight.dtype));
  if (a.logits.rows == 0) return;
  with_float_type(a.logits.dtype, [&]<class T>(std::type_identity<T>) {
    with_quads(s.num_experts, [&](auto quads) {
      with_access(in_quads(a.logits) && in_quads(a.scores), [&](auto access) {
        router_kernel<T, quads(), access()>
            <<<grid_size(a.logits.rows, kWarps), kThreads, 0, stream_of(exec)>>>(a);
      });
    });
  });
  CUDA_CHECK_LAUNCH();
}

void router_bwd(const Exec& exec, const RouterBwdArgs& a) {
  const RouterShape& s = a.shape;
  check_shape(s, a.dlogits.cols);
  CHECK(a.scores.cols == s.num_experts && a.expert.cols == s.top_k && a.dweight.cols == s.top_k &&
            a.scores.rows == a.dlogits.rows && a.expert.rows == a.dlogits.rows &&
            a.dweight.rows == a.dlogits.rows,
        "dlogits [{}, {}], scores [{}, {}], expert [{}, {}], dweight [{}, {}]", a.dlogits.rows,
        a.dlogits.cols, a.scores.rows, a.scores.cols, a.expert.rows, a.expert.cols, a.dweight.rows,
        a.dweight.cols);
  CHECK(a.scores.dtype == DType::kF32 && a.expert.dtype == DType::kI32 && a.dweight.dtype == DType::kF32,
        "scores {}, expert {}, dweight {}", dtype_name(a.scores.dtype), dtype_name(a.expert.dtype),
        dtype_name(a.dweight.dtype));
  if (a.dlogits.rows == 0) return;
  with_float_type(a.dlogits.dtype, [&]<class T>(std::type_identity<T>) {
    with_quads(s.num_experts, [&](auto quads) {
      with_access(in_quads(a.dlogits) && in_quads(a.scores), [&](auto access) {
        router_bwd_kernel<T, quads(), access()>
            <<<grid_size(a.dlogits.rows, kWarps), kThreads, 0, stream_of(exec)>>>(a);
      });
    });
  });
  CUDA_CHECK_LAUNCH();
}

}  // namespace contender::cuda
