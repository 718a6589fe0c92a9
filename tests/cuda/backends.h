// Whole models on three backends: the CPU's in FP32, a plain BF16 implementation, and CUDA. The second is the
// CPU's with everything rounded to BF16 that a BF16 implementation stores so: weights that products read, and
// every activation and gradient of one where an operator leaves it. Statistics, router values, logits,
// gradients of weights and sums inside an operator stay in FP32. What it loses against the CPU is what BF16
// costs: the BF16 rule gives CUDA twice as much.
#pragma once

#include <cmath>
#include <deque>

#include "cuda/backend.h"
#include "tests/cuda/device_array.h"
#include "tests/model/tiny_model.h"

extern "C" const contender::cuda::Library* contender_cuda_backend(int version);

namespace contender::test {

enum class Backend { kCpu, kBf16, kCuda };

inline void round_to_bf16(const Tensor& t) {
  for (int64_t r = 0; r < t.rows; ++r)
    for (int64_t c = 0; c < t.cols; ++c) t.row(r)[c] = from_bf16(to_bf16(t.row(r)[c]));
}

// Experts in the order of the router's calls: written by one backend's forward, followed by another's, so
// that a choice between two experts that are all but equal is the same in both.
struct Choices {
  enum class Use { kOwn, kRecord, kFollow };
  Use use = Use::kOwn;
  std::deque<std::vector<int32_t>> calls;
  Device* device = nullptr;            // of the recording backend
  int64_t followed = 0, differed = 0;  // experts, and those that the follower would not have taken
  double largest_gap = 0;              // by which it preferred another: difference of biased scores
};
inline Choices& choices() {
  static Choices c;
  return c;
}

// The experts that were recorded, by a bias that leaves no others.
inline void follow_router(const Exec& exec, const RouterArgs& a) {
  Choices& c = choices();
  const std::vector<int32_t> wanted = c.calls.front();
  c.calls.pop_front();
  cpu_ops().router(exec, a);
  const int64_t experts = a.shape.num_experts, top_k = a.shape.top_k;
  for (int64_t t = 0; t < a.logits.rows; ++t) {
    const int32_t *want = wanted.data() + t * top_k, *own = a.expert.i32() + t * a.expert.ld;
    const auto score = [&](int32_t e) { return a.scores.row(t)[e] + (a.bias ? a.bias[e] : 0.0f); };
    for (int64_t j = 0; j < top_k; ++j) {
      c.followed += 1;
      if (std::find(own, own + top_k, want[j]) != own + top_k) continue;
      c.differed += 1;
      c.largest_gap = std::max(c.largest_gap, double(score(own[top_k - 1])) - double(score(want[j])));
    }
    std::vector<float> bias(experts, 0.0f);
    for (int64_t j = 0; j < top_k; ++j) bias[want[j]] = static_cast<float>(100 * (top_k - j));
    RouterArgs row = a;
    row.logits = a.logits.row_range(t, t + 1), row.scores = a.scores.row_range(t, t + 1);
    row.expert = a.expert.row_range(t, t + 1), row.weight = a.weight.row_range(t, t + 1);
    row.bias = bias.data();
    cpu_ops().router(exec, row);
  }
}

inline const Ops& cuda_ops() { return *contender_cuda_backend(cuda::kLibraryVersion)->ops; }

inline void record_router(const Exec& exec, const RouterArgs& a) {
  cuda_ops().router(exec, a);
  std::vector<int32_t> chosen(a.expert.numel());
  choices().device->download(exec.stream, chosen.data(), a.expert.data, a.expert.numel() * 4);
  choices().calls.push_back(chosen);
}

template <class Args>
using Member = Op<Args> Ops::*;

// `op`, then `outputs` of its arguments rounded.
template <auto op, class Args, auto... outputs>
void rounding(const Exec& exec, const Args& a) {
  (cpu_ops().*op)(exec, a);
  (round_to_bf16(a.*outputs), ...);
}

// A product with this many columns has logits of the router or of the vocabulary, in FP32.
constexpr int64_t kExperts = 8, kVocabulary = 272;

inline Ops bf16_ops() {
  Ops o = cpu_ops();
  o.name = "bf16";
  o.pack_weight = [](const Exec& exec, const PackWeightArgs& a) {
    std::vector<float> rounded(a.master.f32(), a.master.f32() + a.master.numel());
    PackWeightArgs from = a;
    from.master.data = rounded.data();
    round_to_bf16(from.master);
    cpu_ops().pack_weight(exec, from);
  };
  o.linear = [](const Exec& exec, const LinearArgs& a) {
    cpu_ops().linear(exec, a);
    if (a.y.cols != kExperts && a.y.cols != kVocabulary) round_to_bf16(a.y);
  };
  o.linear_dgrad = rounding<&Ops::linear_dgrad, LinearDgradArgs, &LinearDgradArgs::dx>;
  o.grouped_linear = rounding<&Ops::grouped_linear, GroupedLinearArgs, &GroupedLinearArgs::y>;
  o.grouped_linear_dgrad =
      rounding<&Ops::grouped_linear_dgrad, GroupedLinearDgradArgs, &GroupedLinearDgradArgs::dx>;
  o.heads_linear = rounding<&Ops::heads_linear, HeadsLinearArgs, &HeadsLinearArgs::y>;
  o.rms_norm = [](const Exec& exec, const RmsNormArgs& a) {
    RmsNormArgs of_sum = a;
    if (a.delta) {  // the sum is stored, then normed
      of_sum.x = a.sum ? a.sum : a.x;
      of_sum.delta = of_sum.sum = {};
      cpu_ops().add(exec, {.a = a.x, .b = a.delta, .y = of_sum.x});
      round_to_bf16(of_sum.x);
    }
    cpu_ops().rms_norm(exec, of_sum);
    round_to_bf16(a.y);
  };
  o.rms_norm_quantize = [](const Exec& exec, const RmsNormQuantizeArgs& a) {
    std::vector<float> y(static_cast<size_t>(a.norm.x.numel()));
    RmsNormArgs plain = a.norm;
    if (!plain.y) plain.y = f32_tensor(y.data(), a.norm.x.rows, a.norm.x.cols);
    bf16_ops().rms_norm(exec, plain);
    cpu_ops().quantize(exec, {.x = plain.y, .q = a.q});
  };
  o.swiglu_quantize = [](const Exec& exec, const SwigluQuantizeArgs& a) {
    std::vector<float> y(static_cast<size_t>(a.swiglu.gate_up.numel() / 2));
    SwigluArgs plain = a.swiglu;
    plain.y = f32_tensor(y.data(), a.swiglu.gate_up.rows, a.swiglu.gate_up.cols / 2);
    bf16_ops().swiglu(exec, plain);
    cpu_ops().quantize(exec, {.x = plain.y, .q = a.q});
  };
  o.fp8_gemm = rounding<&Ops::fp8_gemm, Fp8GemmArgs, &Fp8GemmArgs::d>;
  o.fp8_grouped_gemm = rounding<&Ops::fp8_grouped_gemm, Fp8GroupedGemmArgs, &Fp8GroupedGemmArgs::d>;
  o.rms_norm_bwd = rounding<&Ops::rms_norm_bwd, RmsNormBwdArgs, &RmsNormBwdArgs::dx>;
  o.head_norm = rounding<&Ops::head_norm, HeadNormArgs, &HeadNormArgs::y>;
  o.head_norm_bwd = rounding<&Ops::head_norm_bwd, HeadNormBwdArgs, &HeadNormBwdArgs::dx>;
  o.rope = [](const Exec& exec, const RopeArgs& a) {
    cpu_ops().rope(exec, a);
    round_to_bf16(a.y ? a.y : a.x);
  };
  o.attention = rounding<&Ops::attention, AttentionArgs, &AttentionArgs::o>;
  o.attention_bwd =
      rounding<&Ops::attention_bwd, AttentionBwdArgs, &AttentionBwdArgs::dq, &AttentionBwdArgs::dkv>;
  o.swiglu = rounding<&Ops::swiglu, SwigluArgs, &SwigluArgs::y>;
  o.swiglu_bwd = rounding<&Ops::swiglu_bwd, SwigluBwdArgs, &SwigluBwdArgs::dgate_up>;
  o.router_bwd = rounding<&Ops::router_bwd, RouterBwdArgs, &RouterBwdArgs::dlogits>;
  o.combine = rounding<&Ops::combine, CombineArgs, &CombineArgs::y>;
  o.combine_bwd = rounding<&Ops::combine_bwd, CombineBwdArgs, &CombineBwdArgs::dx>;
  o.add = [](const Exec& exec, const AddArgs& a) {
    cpu_ops().add(exec, a);
    if (a.y.rows != 1 || a.y.cols != kExperts) round_to_bf16(a.y);  // the router's bias is FP32
  };
  o.embedding = rounding<&Ops::embedding, EmbeddingArgs, &EmbeddingArgs::y>;
  o.head_bwd = rounding<&Ops::head_bwd, HeadBwdArgs, &HeadBwdArgs::dh>;
  return o;
}

// The backend's operators, with the router in its part of the `choices`.
inline const Ops& ops_of(Backend backend) {
  static Ops table[3];
  Ops& o = table[static_cast<int>(backend)];
  o = backend == Backend::kCpu ? cpu_ops() : backend == Backend::kBf16 ? bf16_ops() : cuda_ops();
  if (backend == Backend::kCuda && choices().use == Choices::Use::kRecord) o.router = record_router;
  if (backend != Backend::kCuda && choices().use == Choices::Use::kFollow) o.router = follow_router;
  return o;
}

inline std::unique_ptr<Device> make_device(Backend backend) {
  std::unique_ptr<Device> device = backend == Backend::kCuda
                                       ? contender_cuda_backend(cuda::kLibraryVersion)->make_device(0, 1)
                                       : make_cpu_device();
  if (backend == Backend::kCuda) choices().device = device.get();
  return device;
}

inline RunConfig on(Backend backend, RunConfig c) {
  c.device = backend == Backend::kCuda ? "cuda" : "cpu";
  return c;
}

// Values of a dense tensor, from any backend, as numbers.
inline std::vector<float> values_of(Device& device, const Tensor& x) {
  std::vector<float> values;
  std::vector<char> bytes(x.numel() * dtype_size(x.dtype));
  CHECK(x.contiguous(), "ld {} of {} columns", x.ld, x.cols);
  device.download(device.compute_stream(), bytes.data(), x.data, std::ssize(bytes));
  for (int64_t i = 0; i < x.numel(); ++i) {
    const char* at = bytes.data() + i * dtype_size(x.dtype);
    if (x.dtype == DType::kBF16) {
      values.push_back(from_bf16(*reinterpret_cast<const uint16_t*>(at)));
    } else if (x.dtype == DType::kI32) {
      values.push_back(static_cast<float>(*reinterpret_cast<const int32_t*>(at)));
    } else {
      values.push_back(*reinterpret_cast<const float*>(at));
    }
  }
  return values;
}

// |got - want| / |want|, in L2; infinite where `got` has no such size or is not finite.
inline double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  if (got.size() != want.size()) return INFINITY;
  double error = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += std::pow(double(got[i]) - double(want[i]), 2);
    norm += std::pow(double(want[i]), 2);
  }
  const double e = std::sqrt(error / std::max(norm, 1e-30));
  return std::isfinite(e) ? e : INFINITY;
}

}  // namespace contender::test
