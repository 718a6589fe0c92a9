#include "ops/optimizer.h"

#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "tests/cpu/op_inputs.h"
#include "tests/ref/optimizer_ref.h"

namespace contender {
namespace {

using test::same_bits;

float from_bf16(uint16_t v) { return std::bit_cast<float>(static_cast<uint32_t>(v) << 16); }

AdamwArgs at_step(int step) {
  return {.lr = 1e-3f,
          .beta1 = 0.9f,
          .beta2 = 0.95f,
          .eps = 1e-8f,
          .weight_decay = 0.1f,
          .bias_correction1 = static_cast<float>(1 - std::pow(0.9f, step)),
          .bias_correction2 = static_cast<float>(1 - std::pow(0.95f, step))};
}

// Several steps on a ragged length against double, with the clip factor applied to the gradient.
TEST(CpuAdamw, MatchesDouble) {
  constexpr int64_t kN = 77;
  const std::vector<float> start = test::random_values(kN, 1);
  std::vector<float> w = start, m(kN, 0.0f), v(kN, 0.0f);
  std::vector<ref::AdamwState> want;
  for (float x : start) want.push_back({x, 0, 0});
  const float grad_scale = 0.37f;
  for (int step = 1; step <= 5; ++step) {
    const std::vector<float> grad = test::random_values(kN, 100 + step, 6.0);
    AdamwArgs a = at_step(step);
    a.n = kN;
    a.master = w.data();
    a.grad = grad.data();
    a.m = m.data();
    a.v = v.data();
    a.grad_scale = &grad_scale;
    cpu::adamw({}, a);
    for (int64_t i = 0; i < kN; ++i) {
      want[i] = ref::adamw(want[i], static_cast<double>(grad[i]) * grad_scale, 1e-3f, 0.9f, 0.95f, 1e-8f,
                           0.1f, step);
    }
  }
  for (int64_t i = 0; i < kN; ++i) {
    test::expect_close(w[i], want[i].w, std::abs(start[i]) + 5e-3, 1e-6, "w", i);
    test::expect_close(v[i], want[i].v, want[i].v, 1e-6, "v", i);
    test::expect_close(m[i], want[i].m, std::sqrt(want[i].v), 1e-6, "m", i);
  }
}

// BF16 moments: the update uses the unrounded moment; the stored one is its nearest BF16, ties to even.
TEST(CpuAdamw, Bf16MomentsAreRoundedAfterUse) {
  constexpr int64_t kN = 61;
  const std::vector<float> grad = test::random_values(kN, 2, 5.0);
  std::vector<float> w = test::random_values(kN, 3), w16 = w, m(kN, 0.0f), v(kN, 0.0f);
  std::vector<uint16_t> m16(kN, 0), v16(kN, 0);
  AdamwArgs a = at_step(1);
  a.n = kN;
  a.grad = grad.data();
  a.master = w.data();
  a.m = m.data();
  a.v = v.data();
  cpu::adamw({}, a);
  a.master = w16.data();
  a.m = m16.data();
  a.v = v16.data();
  a.moment_dtype = DType::kBF16;
  cpu::adamw({}, a);
  EXPECT_TRUE(same_bits(w, w16));
  for (int64_t i = 0; i < kN; ++i) {
    for (auto [wide, narrow] : {std::pair(m[i], m16[i]), std::pair(v[i], v16[i])}) {
      const float below = from_bf16(narrow - 1), here = from_bf16(narrow), above = from_bf16(narrow + 1);
      EXPECT_LE(std::abs(here - wide), std::min(std::abs(below - wide), std::abs(above - wide)));
    }
  }
  // A tie: beta1 = 0 stores the gradient itself. 1 + 2^-8 lies between 1 and 1 + 2^-7.
  const float ties[2] = {1.0f + 0x1p-8f, 1.0f + 3 * 0x1p-8f};
  a.n = 2;
  a.grad = ties;
  a.beta1 = 0;
  cpu::adamw({}, a);
  EXPECT_EQ(from_bf16(m16[0]), 1.0f);
  EXPECT_EQ(from_bf16(m16[1]), 1.0f + 0x1p-6f);
}

TEST(CpuAdamw, Bf16NanStaysNan) {
  const float bad = std::bit_cast<float>(0x7FFFFFFFu);
  float w = 1;
  uint16_t m = 0, v = 0;
  AdamwArgs a = at_step(1);
  a.n = 1;
  a.master = &w;
  a.grad = &bad;
  a.m = &m;
  a.v = &v;
  a.moment_dtype = DType::kBF16;
  cpu::adamw({}, a);
  EXPECT_TRUE(std::isnan(from_bf16(m)) && std::isnan(from_bf16(v)) && std::isnan(w));
}

TEST(CpuAdamw, SkipLeavesEverything) {
  constexpr int64_t kN = 5;
  const std::vector<float> start = test::random_values(kN, 4), grad = test::poisoned(kN);
  std::vector<float> w = start, m = start, v = start;
  const int32_t skip = 1;
  const float zero = 0;
  AdamwArgs a = at_step(1);
  a.n = kN;
  a.master = w.data();
  a.grad = grad.data();
  a.m = m.data();
  a.v = v.data();
  a.grad_scale = &zero;
  a.skip = &skip;
  cpu::adamw({}, a);
  EXPECT_TRUE(same_bits(w, start) && same_bits(m, start) && same_bits(v, start));
}

// A shard's elements have the same bits however the flat range is cut.
TEST(CpuAdamw, ShardsAgree) {
  constexpr int64_t kN = 67;
  const std::vector<float> grad = test::random_values(kN, 5);
  std::vector<float> w = test::random_values(kN, 6), m(kN, 0.1f), v(kN, 0.2f), w2 = w, m2 = m, v2 = v;
  AdamwArgs a = at_step(3);
  a.n = kN;
  a.master = w.data();
  a.grad = grad.data();
  a.m = m.data();
  a.v = v.data();
  cpu::adamw({}, a);
  for (auto [begin, end] : {std::pair(0, 1), std::pair(1, 30), std::pair(30, 67)}) {
    a.n = end - begin;
    a.master = w2.data() + begin;
    a.grad = grad.data() + begin;
    a.m = m2.data() + begin;
    a.v = v2.data() + begin;
    cpu::adamw({}, a);
  }
  EXPECT_TRUE(same_bits(w, w2) && same_bits(m, m2) && same_bits(v, v2));
}

// Copies are those of the operators that make them from the new master.
TEST(CpuAdamw, CopiesAreTheComposition) {
  constexpr int64_t kGroups = 2, kN = 37, kK = 130, kCount = kGroups * kN * kK;
  const std::vector<float> grad = test::random_values(kCount, 5);
  std::vector<float> w = test::random_values(kCount, 6), m(kCount, 0.1f), v(kCount, 0.2f), w2 = w, m2 = m,
                     v2 = v;
  struct Copies {
    std::vector<float> forward, backward, scale, scale_t;
    std::vector<uint8_t> q, transposed;
    Copies()
        : forward(test::poisoned(kGroups * packed_forward_bytes(kN, kK) / 4)),
          backward(test::poisoned(kGroups * packed_backward_bytes(kN, kK) / 4)),
          scale(test::poisoned(kGroups * 2)),
          scale_t(scale),
          q(kCount, 0x55),
          transposed(q) {}
    WeightCopies view() {
      return {.n = kN,
              .k = kK,
              .num_groups = kGroups,
              .forward = forward.data(),
              .backward = backward.data(),
              .q = {.data = {q.data(), DType::kE4M3, kGroups * kN, kK},
                    .scale = f32_tensor(scale.data(), kGroups, 2),
                    .layout = QLayout::k128x128},
              .transposed = {.data = {transposed.data(), DType::kE4M3, kGroups * kK, kN},
                             .scale = f32_tensor(scale_t.data(), kGroups * 2, 1),
                             .layout = QLayout::k128x128}};
    }
  } got, want;
  AdamwArgs a = at_step(3);
  a.n = kCount;
  a.master = w.data();
  a.grad = grad.data();
  a.m = m.data();
  a.v = v.data();
  cpu::adamw({}, a);
  const Tensor master = f32_tensor(w.data(), kGroups * kN, kK);
  const WeightCopies c = want.view();
  cpu::pack_weight({}, {.master = master,
                        .forward = c.forward,
                        .backward = c.backward,
                        .n = kN,
                        .k = kK,
                        .num_groups = kGroups});
  cpu::quantize_weight({}, {.x = master, .num_groups = kGroups, .q = c.q, .transposed = c.transposed});
  a.master = w2.data();
  a.m = m2.data();
  a.v = v2.data();
  a.copies = got.view();
  const int32_t skip = 1;
  a.skip = &skip;
  cpu::adamw({}, a);
  EXPECT_TRUE(std::isnan(got.forward[0]) && got.q[0] == 0x55);  // nothing, copies included
  a.skip = nullptr;
  cpu::adamw({}, a);
  EXPECT_TRUE(same_bits(w, w2) && same_bits(m, m2) && same_bits(v, v2));
  EXPECT_TRUE(same_bits(got.forward, want.forward) && same_bits(got.backward, want.backward));
  EXPECT_TRUE(same_bits(got.scale, want.scale) && same_bits(got.scale_t, want.scale_t));
  EXPECT_TRUE(got.q == want.q && got.transposed == want.transposed);
  a.n = kCount - 1;
  EXPECT_THROW(cpu::adamw({}, a), Error);
}

TEST(CpuAdamw, UnknownMomentTypeIsNamed) {
  AdamwArgs a = at_step(1);
  a.moment_dtype = DType::kF16;
  EXPECT_THROW(cpu::adamw({}, a), Error);
}

TEST(CpuSquareSum, EqualsTermByTerm) {
  std::vector<float> x = test::random_values(70001, 7, 30.0);
  x[3] = std::numeric_limits<float>::max();
  x[70000] = std::numeric_limits<float>::denorm_min();
  x[69999] = 0;
  for (int64_t n : {int64_t{0}, int64_t{1}, int64_t{70001}}) {
    ExactSum got, want;
    want.add(2.0f);
    got.add(2.0f);
    for (int64_t i = 0; i < n; ++i) want.add_square(x[i]);
    cpu::square_sum({}, {.x = x.data(), .n = n, .sum = &got});
    EXPECT_EQ(std::bit_cast<uint64_t>(got.value()), std::bit_cast<uint64_t>(want.value()));
  }
  x[5] = std::nanf("");
  x[6] = -std::numeric_limits<float>::infinity();
  ExactSum bad;
  cpu::square_sum({}, {.x = x.data(), .n = 10, .sum = &bad});
  EXPECT_EQ(bad.non_finite, 2);
}

}  // namespace
}  // namespace contender
