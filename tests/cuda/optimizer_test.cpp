#include "ops/optimizer.h"

#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "cuda/ops.h"
#include "tests/cuda/device_array.h"
#include "tests/ref/optimizer_ref.h"

namespace contender {
namespace {

using test::DeviceArray;
using test::same_bits;

AdamwArgs at_step(int step) {
  return {.lr = 1e-3f,
          .beta1 = 0.9f,
          .beta2 = 0.95f,
          .eps = 1e-8f,
          .weight_decay = 0.1f,
          .bias_correction1 = static_cast<float>(1 - std::pow(0.9f, step)),
          .bias_correction2 = static_cast<float>(1 - std::pow(0.95f, step))};
}

// The state of one shard, on the host; moments as floats that the moment type can hold.
struct Shard {
  std::vector<float> w, m, v;
};
std::vector<uint16_t> narrow_bf16(const std::vector<float>& v) {
  std::vector<uint16_t> out;
  for (float x : v) out.push_back(test::to_bf16(x));
  return out;
}
std::vector<float> widen(const std::vector<uint16_t>& v) {
  std::vector<float> out;
  for (uint16_t x : v) out.push_back(test::from_bf16(x));
  return out;
}

struct Control {
  float grad_scale = 0.37f;
  int32_t skip = 0;
};

// Shards start `offset` elements into their arrays: 0 takes the vector path, others single elements.
template <class Moment>
Shard run_adamw(const Shard& start, const std::vector<float>& grad, AdamwArgs a, int64_t offset,
                Control control) {
  const auto shifted = [&](auto values) {
    values.insert(values.begin(), static_cast<size_t>(offset), {});
    return DeviceArray(values);
  };
  const auto moments = [&](const std::vector<float>& v) {
    if constexpr (std::is_same_v<Moment, float>) {
      return shifted(v);
    } else {
      return shifted(narrow_bf16(v));
    }
  };
  DeviceArray<float> w = shifted(start.w), g = shifted(grad);
  DeviceArray<Moment> m = moments(start.m), v = moments(start.v);
  DeviceArray<float> scale(std::vector<float>{control.grad_scale});
  DeviceArray<int32_t> skip(std::vector<int32_t>{control.skip});
  a.n = static_cast<int64_t>(grad.size());
  a.master = w.data() + offset;
  a.grad = g.data() + offset;
  a.m = m.data() + offset;
  a.v = v.data() + offset;
  a.moment_dtype = std::is_same_v<Moment, float> ? DType::kF32 : DType::kBF16;
  a.grad_scale = scale.data();
  a.skip = skip.data();
  cuda::adamw({}, a);
  const auto tail = [&](const auto& array) {
    auto values = array.download();
    values.erase(values.begin(), values.begin() + offset);
    if constexpr (sizeof(values[0]) == 2) {
      return widen(values);
    } else {
      return values;
    }
  };
  return {tail(w), tail(m), tail(v)};
}

template <class Moment>
Shard run_cpu(Shard s, const std::vector<float>& grad, AdamwArgs a, Control control) {
  std::vector<uint16_t> m = narrow_bf16(s.m), v = narrow_bf16(s.v);
  constexpr bool kWide = std::is_same_v<Moment, float>;
  a.n = static_cast<int64_t>(grad.size());
  a.master = s.w.data();
  a.grad = grad.data();
  a.m = kWide ? static_cast<void*>(s.m.data()) : m.data();
  a.v = kWide ? static_cast<void*>(s.v.data()) : v.data();
  a.moment_dtype = kWide ? DType::kF32 : DType::kBF16;
  a.grad_scale = &control.grad_scale;
  a.skip = &control.skip;
  cpu::adamw({}, a);
  if (!kWide) s.m = widen(m), s.v = widen(v);
  return s;
}

Shard random_shard(int64_t n) {
  Shard s = {test::random_values(n, 1), test::random_values(n, 2, 5.0), test::random_values(n, 3, 8.0)};
  for (float& x : s.m) x = test::rounded(x, DType::kBF16);
  for (float& x : s.v) x = test::rounded(std::abs(x), DType::kBF16);
  return s;
}

template <class Moment>
void expect_cpu_bits(int64_t n, int64_t offset) {
  const Shard start = random_shard(n);
  const std::vector<float> grad = test::random_values(n, 4, 6.0);
  const Shard got = run_adamw<Moment>(start, grad, at_step(3), offset, {});
  const Shard want = run_cpu<Moment>(start, grad, at_step(3), {});
  EXPECT_TRUE(same_bits(got.w, want.w) && same_bits(got.m, want.m) && same_bits(got.v, want.v))
      << n << " elements from " << offset;
}

// Every operation rounds as on the CPU: equal bits, on vectors, tails and unaligned shards.
TEST(CudaAdamw, EqualsTheCpu) {
  for (int64_t n : {0, 1, 7, 8, 61, 2048, 5003}) {
    for (int64_t offset : {0, 3}) {
      expect_cpu_bits<float>(n, offset);
      expect_cpu_bits<uint16_t>(n, offset);
    }
  }
}

TEST(CudaAdamw, MatchesDouble) {
  constexpr int64_t kN = 77;
  Shard s = {test::random_values(kN, 1), std::vector<float>(kN, 0.0f), std::vector<float>(kN, 0.0f)};
  const std::vector<float> start = s.w;
  std::vector<ref::AdamwState> want;
  for (float x : start) want.push_back({x, 0, 0});
  const Control control;
  for (int step = 1; step <= 5; ++step) {
    const std::vector<float> grad = test::random_values(kN, 100 + step, 6.0);
    s = run_adamw<float>(s, grad, at_step(step), 0, control);
    for (int64_t i = 0; i < kN; ++i) {
      want[i] = ref::adamw(want[i], static_cast<double>(grad[i]) * control.grad_scale, 1e-3f, 0.9f, 0.95f,
                           1e-8f, 0.1f, step);
    }
  }
  for (int64_t i = 0; i < kN; ++i) {
    test::expect_close(s.w[i], want[i].w, std::abs(start[i]) + 5e-3, 1e-6, "w", i);
    test::expect_close(s.v[i], want[i].v, want[i].v, 1e-6, "v", i);
    test::expect_close(s.m[i], want[i].m, std::sqrt(want[i].v), 1e-6, "m", i);
  }
}

TEST(CudaAdamw, SkipLeavesEverything) {
  const Shard start = random_shard(21);
  const Shard got =
      run_adamw<uint16_t>(start, test::poisoned(21), at_step(1), 0, {.grad_scale = 0, .skip = 1});
  EXPECT_TRUE(same_bits(got.w, start.w) && same_bits(got.m, start.m) && same_bits(got.v, start.v));
}

// Without a factor and a flag: as with 1 and 0.
TEST(CudaAdamw, ScalarsAreOptional) {
  const Shard start = random_shard(9);
  const std::vector<float> grad = test::random_values(9, 4);
  DeviceArray<float> w(start.w), g(grad), m(start.m), v(start.v);
  AdamwArgs a = at_step(2);
  a.n = 9, a.master = w.data(), a.grad = g.data(), a.m = m.data(), a.v = v.data();
  cuda::adamw({}, a);
  const Shard want = run_adamw<float>(start, grad, at_step(2), 0, {.grad_scale = 1});
  EXPECT_TRUE(same_bits(w.download(), want.w) && same_bits(m.download(), want.m) &&
              same_bits(v.download(), want.v));
}

TEST(CudaAdamw, NanGradientStaysVisible) {
  const Shard got = run_adamw<uint16_t>(random_shard(9), test::poisoned(9), at_step(1), 0, {});
  for (int i = 0; i < 9; ++i)
    EXPECT_TRUE(std::isnan(got.w[i]) && std::isnan(got.m[i]) && std::isnan(got.v[i]));
}

struct CopyShape {
  int64_t groups, n, k;
  int64_t offset;  // of the shard in its arrays
};
class CudaAdamwCopies : public testing::TestWithParam<CopyShape> {};

// A weight's copies on the device, poisoned.
struct DeviceCopies {
  CopyShape s;
  DeviceArray<uint8_t> forward, backward, q, transposed;
  DeviceArray<float> scale, scale_t;
  explicit DeviceCopies(const CopyShape& s)
      : s(s),
        forward(s.groups * packed_forward_bytes(s.n, s.k, kCudaWeights)),
        backward(s.groups * packed_backward_bytes(s.n, s.k, kCudaWeights)),
        q(s.groups * s.n * s.k),
        transposed(s.groups * s.n * s.k),
        scale(s.groups * ceil_div(s.n, 128) * ceil_div(s.k, 128)),
        scale_t(scale.size()) {}
  WeightCopies view() const {
    const auto form = [&](void* codes, float* scale, int64_t n, int64_t k) {
      return QTensor{.data = {codes, DType::kE4M3, s.groups * n, k},
                     .scale = f32_tensor(scale, s.groups * ceil_div(n, 128), ceil_div(k, 128)),
                     .layout = QLayout::k128x128};
    };
    return {.n = s.n,
            .k = s.k,
            .num_groups = s.groups,
            .forward = forward.data(),
            .backward = backward.data(),
            .q = form(q.data(), scale.data(), s.n, s.k),
            .transposed = form(transposed.data(), scale_t.data(), s.k, s.n)};
  }
  bool same_bytes(const DeviceCopies& o) const {
    return forward.download() == o.forward.download() && backward.download() == o.backward.download() &&
           q.download() == o.q.download() && transposed.download() == o.transposed.download() &&
           same_bits(scale.download(), o.scale.download()) &&
           same_bits(scale_t.download(), o.scale_t.download());
  }
};

// One pass writes the bits of adamw, pack_weight and quantize_weight one after the other.
TEST_P(CudaAdamwCopies, AreTheComposition) {
  const CopyShape s = GetParam();
  const int64_t n = s.groups * s.n * s.k;
  const std::vector<float> grad = test::random_values(n, 4, 6.0);
  const Shard start = random_shard(n);
  const auto expect_composition = [&]<class Moment>(std::type_identity<Moment>) {
    const Shard want = run_adamw<Moment>(start, grad, at_step(3), s.offset, {});
    const DeviceCopies want_copies(s), got_copies(s), skipped(s);
    const test::DeviceTensor master(DType::kF32, {want.w, s.groups * s.n, s.k, s.k});
    const WeightCopies c = want_copies.view();
    cuda::pack_weight({}, {.master = master.tensor(),
                           .forward = c.forward,
                           .backward = c.backward,
                           .n = s.n,
                           .k = s.k,
                           .num_groups = s.groups});
    cuda::quantize_weight(
        {}, {.x = master.tensor(), .num_groups = s.groups, .q = c.q, .transposed = c.transposed});
    AdamwArgs a = at_step(3);
    a.copies = got_copies.view();
    const Shard got = run_adamw<Moment>(start, grad, a, s.offset, {});
    EXPECT_TRUE(same_bits(got.w, want.w) && same_bits(got.m, want.m) && same_bits(got.v, want.v));
    EXPECT_TRUE(got_copies.same_bytes(want_copies));
  };
  expect_composition(std::type_identity<float>());
  expect_composition(std::type_identity<uint16_t>());

  // Any of the forms may be absent; with skip none is written.
  const DeviceCopies all(s), some(s), none(s), untouched(s);
  AdamwArgs a = at_step(3);
  a.copies = all.view();
  run_adamw<float>(start, grad, a, s.offset, {});
  a.copies = some.view();
  a.copies.q = {};
  a.copies.backward = nullptr;
  run_adamw<float>(start, grad, a, s.offset, {});
  EXPECT_EQ(some.forward.download(), all.forward.download());
  EXPECT_EQ(some.transposed.download(), all.transposed.download());
  EXPECT_EQ(some.backward.download(), untouched.backward.download());
  EXPECT_EQ(some.q.download(), untouched.q.download());
  a.copies = none.view();
  run_adamw<float>(start, grad, a, s.offset, {.skip = 1});
  EXPECT_TRUE(none.same_bytes(untouched));
}
INSTANTIATE_TEST_SUITE_P(Shapes, CudaAdamwCopies,
                         testing::Values(CopyShape{1, 1, 1, 0}, CopyShape{1, 128, 128, 0},
                                         CopyShape{2, 24, 20, 0}, CopyShape{3, 16, 132, 0},
                                         CopyShape{1, 200, 148, 0}, CopyShape{2, 144, 272, 0},
                                         CopyShape{1, 131, 67, 1}));

TEST(CudaAdamw, CopiesOfAnotherShapeAreRefused) {
  const DeviceCopies copies({1, 2, 3, 0});
  AdamwArgs a = at_step(1);
  a.n = 7;
  a.copies = copies.view();
  EXPECT_THROW(cuda::adamw({}, a), Error);
}

TEST(CudaAdamw, UnknownMomentTypeIsNamed) {
  AdamwArgs a = at_step(1);
  a.moment_dtype = DType::kF16;
  EXPECT_THROW(cuda::adamw({}, a), Error);
}

ExactSum device_square_sum(const std::vector<float>& x, int64_t offset, const ExactSum& start) {
  std::vector<float> shifted(static_cast<size_t>(offset), std::nanf(""));
  shifted.insert(shifted.end(), x.begin(), x.end());
  const DeviceArray<float> values(shifted);
  const DeviceArray<ExactSum> sum(std::vector<ExactSum>{start});
  cuda::square_sum({}, {.x = values.data() + offset, .n = static_cast<int64_t>(x.size()), .sum = sum.data()});
  return sum.download()[0];
}

// Exact, whatever the spread: one decade stays in a lane's window, thirty leave it all the time.
TEST(CudaSquareSum, EqualsTermByTerm) {
  for (double decades : {0.5, 4.0, 30.0}) {
    std::vector<float> x = test::random_values(9001, 7, decades);
    if (decades > 10) x[3] = std::numeric_limits<float>::max();
    x[8999] = std::numeric_limits<float>::denorm_min();
    x[9000] = 0;
    for (int64_t n : {0, 1, 3, 511, 9001}) {
      const std::vector<float> part(x.end() - n, x.end());
      for (int64_t offset : {0, 1, 3}) {
        ExactSum start, want;
        start.add(2.0f);
        want.add(2.0f);
        for (float v : part) want.add_square(v);
        const ExactSum got = device_square_sum(part, offset, start);
        EXPECT_EQ(std::bit_cast<uint64_t>(got.value()), std::bit_cast<uint64_t>(want.value()))
            << n << " values of " << decades << " decades";
        EXPECT_EQ(got.non_finite, 0);
      }
    }
  }
}

TEST(CudaSquareSum, WindowMovesWithTheData) {
  std::vector<float> x;
  for (float scale : {1e-30f, 1.0f, 1e18f, 1e-5f}) {
    for (float v : test::random_values(8192, 8, 1.0, scale)) x.push_back(v);
  }
  ExactSum want;
  for (float v : x) want.add_square(v);
  EXPECT_EQ(device_square_sum(x, 0, {}).value(), want.value());
}

TEST(CudaSquareSum, CountsWhatIsNotFinite) {
  std::vector<float> x = test::random_values(700, 9);
  x[5] = std::nanf("");
  x[600] = -std::numeric_limits<float>::infinity();
  x[601] = std::numeric_limits<float>::max();
  const ExactSum got = device_square_sum(x, 0, {});
  EXPECT_EQ(got.non_finite, 2);
  EXPECT_TRUE(std::isnan(got.value()));
}

}  // namespace
}  // namespace contender
