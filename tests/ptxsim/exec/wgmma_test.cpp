// wgmma as kernels of one or two warpgroups, against matrices on the host.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "exec/mma.h"
#include "numeric/float_formats.h"
#include "numeric/fragments.h"
#include "tests/ptxsim/exec/kernel_harness.h"
#include "tests/ptxsim/exec/tensor_operands.h"

namespace ptxsim {
namespace {

using numeric::InputType;
using numeric::kPanelVectors;
using numeric::Panel;
using numeric::RawPanel;
using numeric::ResultType;
using testing::DeviceArray;
using testing::Kernel;
using testing::random_code;
using testing::registers;

struct Case {
  const char* types;
  int n;
  InputType a, b;
  ResultType result = ResultType::kF32;
  int a_swizzle = 128, b_swizzle = 128;  // bytes; 16: none
  bool a_mn_major = false, b_mn_major = false;
  bool a_in_registers = false;
  bool negate_a = false, negate_b = false;
  bool accumulate = true;
};

// Mode field of the descriptor.
uint64_t mode_of(int swizzle) { return swizzle == 128 ? 1 : swizzle == 64 ? 2 : swizzle == 32 ? 3 : 0; }

// A matrix of `vectors` rows (of A; columns of B) by 32 bytes of k in shared memory, placed as the pictures
// of the ISA show: tiles of 8 rows of the pattern, the 16-byte chunks of row r of a tile permuted by r.
struct Layout {
  int swizzle, element_bytes, vectors;
  bool mn_major;

  int tile() const { return 8 * swizzle; }
  // MN-major: vectors in one row of the pattern.
  int across() const { return swizzle / 2; }
  uint32_t leading() const {
    if (swizzle == 16) return mn_major ? static_cast<uint32_t>(vectors / 8 * 128) : 128;
    return static_cast<uint32_t>(2 * tile());  // MN-major: behind the two tiles of 16 deep
  }
  uint32_t stride() const {
    if (swizzle == 16) return mn_major ? 128 : 256;
    return static_cast<uint32_t>(tile());
  }
  int place(int v, int k) const {
    const int byte = mn_major ? v * 2 : k * element_bytes;  // along the contiguous dimension
    const int line = mn_major ? k : v;
    if (swizzle == 16) {
      const int core = mn_major ? k / 8 * (vectors / 8) + v / 8 : v / 8 * 2 + byte / 16;
      return core * 128 + line % 8 * 16 + byte % 16;
    }
    const int column = byte % swizzle, rows_per_step = 128 / swizzle;
    const int chunk = (column / 16) ^ (line % 8 / rows_per_step % (swizzle / 16));
    const int tiles = mn_major ? v / across() * 2 + k / 8 : v / 8;
    return tiles * tile() + line % 8 * swizzle + chunk * 16 + byte % 16;
  }
  int bytes() const {
    if (swizzle == 16) return vectors * 32;
    return mn_major ? (vectors + across() - 1) / across() * 2 * tile() : vectors / 8 * tile();
  }
  uint64_t descriptor(uint32_t start) const {
    return uint64_t{start >> 4} | uint64_t{leading() >> 4} << 16 | uint64_t{stride() >> 4} << 32 |
           mode_of(swizzle) << 62;
  }
};

constexpr int kBStart = 16384;  // of B in shared memory, behind A

// p0: image of shared memory (65536 bytes), p1: registers of A (4 words per thread), p2: accumulators in and
// out (d_count words per thread), p3, p4: descriptors without the start of smem.
std::string kernel_body(const Case& c, int k, int d_count) {
  const std::string n = std::to_string(c.n), bytes = std::to_string(4 * d_count);
  std::string body =
      "ld.param.u64 %d0, [p0];\nld.param.u64 %d1, [p1];\nld.param.u64 %d2, [p2];\nld.param.u64 %d3, [p3];\n"
      "ld.param.u64 %d4, [p4];\nmov.u32 %r500, smem;\nmov.u32 %r501, %t;\n"
      "LOOP:\nmul.wide.u32 %d5, %r501, 16;\nadd.u64 %d5, %d0, %d5;\nld.global.v4.u32 {%r0,%r1,%r2,%r3}, "
      "[%d5];\n"
      "mad.lo.u32 %r502, %r501, 16, %r500;\nst.shared.v4.u32 [%r502], {%r0,%r1,%r2,%r3};\n"
      "add.u32 %r501, %r501, 128;\nsetp.lt.u32 %p0, %r501, 4096;\n@%p0 bra LOOP;\nbar.sync 0;\n"
      "shr.u32 %r500, %r500, 4;\nmul.wide.u32 %d5, %r500, 1;\nadd.u64 %d3, %d3, %d5;\nadd.u64 %d4, %d4, "
      "%d5;\n"
      "mul.wide.u32 %d5, %t, 16;\nadd.u64 %d1, %d1, %d5;\nld.global.v4.u32 {%r0,%r1,%r2,%r3}, [%d1];\n"
      "mul.wide.u32 %d5, %t, " +
      bytes + ";\nadd.u64 %d2, %d2, %d5;\n";
  for (int r = 0; r < d_count; ++r)
    body += "ld.global.u32 %r" + std::to_string(10 + r) + ", [%d2+" + std::to_string(4 * r) + "];\n";
  const bool integers = is_integer(c.a), wide = numeric::input_bytes(c.a) == 2;
  body += "setp.eq.u32 %p1, %t, " + std::string(c.accumulate ? "%t" : "1000") +
          ";\nwgmma.fence.sync.aligned;\n" + "wgmma.mma_async.sync.aligned.m64n" + n + "k" +
          std::to_string(k) + "." + c.types + " " + registers("%r", 10, d_count) + ", " +
          (c.a_in_registers ? "{%r0,%r1,%r2,%r3}" : "%d3") + ", %d4, %p1";
  if (!integers) body += std::string(c.negate_a ? ", -1" : ", 1") + (c.negate_b ? ", -1" : ", 1");
  if (wide && !c.a_in_registers) body += c.a_mn_major ? ", 1" : ", 0";
  if (wide) body += c.b_mn_major ? ", 1" : ", 0";
  body += ";\nwgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";
  for (int r = 0; r < d_count; ++r)
    body += "st.global.u32 [%d2+" + std::to_string(4 * r) + "], %r" + std::to_string(10 + r) + ";\n";
  return body;
}

// Codes of A (64 x k) and B (n x k) and their places.
struct Problem {
  Problem(const Case& c, std::mt19937& random)
      : bytes(numeric::input_bytes(c.a)),
        k(32 / bytes),
        a(64, std::vector<uint32_t>(k)),
        b(c.n, std::vector<uint32_t>(k)),
        image(65536),
        a_registers(4 * 128),
        a_layout{c.a_swizzle, bytes, 64, c.a_mn_major},
        b_layout{c.b_swizzle, bytes, c.n, c.b_mn_major} {
    for (auto& row : a)
      for (uint32_t& x : row) x = random_code(random, c.a);
    for (auto& row : b)
      for (uint32_t& x : row) x = random_code(random, c.b);
    for (size_t at = 0; at < image.size(); ++at) image[at] = static_cast<uint8_t>(random());
    for (int v = 0; v < 64; ++v)
      for (int j = 0; j < k; ++j) std::memcpy(image.data() + a_layout.place(v, j), &a[v][j], bytes);
    for (int v = 0; v < c.n; ++v)
      for (int j = 0; j < k; ++j) std::memcpy(image.data() + kBStart + b_layout.place(v, j), &b[v][j], bytes);
    for (int thread = 0; thread < 128; ++thread)
      for (int r = 0; r < 4; ++r)
        for (int e = 0; e < 4 / bytes; ++e) {
          const auto p = numeric::a_position(bytes, thread % 32, r, e);
          a_registers[4 * thread + r] |= a[thread / 32 * 16 + p.row][p.column] << 8 * bytes * e;
        }
    EXPECT_LE(a_layout.bytes(), kBStart);
    EXPECT_LE(b_layout.bytes(), 65536 - kBStart);
  }
  int bytes, k;
  std::vector<std::vector<uint32_t>> a, b;
  std::vector<uint8_t> image;
  std::vector<uint32_t> a_registers;
  Layout a_layout, b_layout;
};

Panel panel(InputType type, const std::vector<std::vector<uint32_t>>& codes, int first, bool negate) {
  RawPanel raw{};
  const int bytes = numeric::input_bytes(type);
  for (int v = 0; v < kPanelVectors && first + v < static_cast<int>(codes.size()); ++v)
    for (size_t k = 0; k < codes[first + v].size(); ++k)
      raw.word[k * bytes / 4][v] |= codes[first + v][k] << 8 * (k * bytes % 4);
  Panel p;
  decode(type, raw, numeric::kPanelWords, negate, p);
  return p;
}

// d[row][column] of 64 x 256
using Accumulator = std::vector<std::vector<float>>;

Accumulator expected(const Case& c, const Problem& p, const Accumulator& start) {
  Accumulator d = start;
  for (int m = 0; m < 64; m += 16) {
    const Panel x = panel(c.a, p.a, m, c.negate_a);
    for (int n = 0; n < c.n; n += 16) {
      const Panel y = panel(c.b, p.b, n, c.negate_b);
      float block[16][kPanelVectors] = {};
      for (int i = 0; i < 16 && c.accumulate; ++i)
        for (int j = 0; j < 16 && n + j < c.n; ++j) block[i][j] = start[m + i][n + j];
      multiply_add(numeric::sum_model(c.a), Accumulation::kHardware, c.result, x, 16, y, p.k, block);
      for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 16 && n + j < c.n; ++j) d[m + i][n + j] = block[i][j];
    }
  }
  return d;
}

std::vector<uint32_t> run(const Case& c, const Problem& p, const std::vector<uint32_t>& accumulators,
                          uint32_t threads = 128) {
  DeviceArray<uint8_t> image(p.image.size());
  DeviceArray<uint32_t> registers(4 * threads), d(accumulators.size() * threads / 128);
  std::copy(p.image.begin(), p.image.end(), image.data());
  for (uint32_t group = 0; group < threads / 128; ++group) {
    std::copy(p.a_registers.begin(), p.a_registers.end(), registers.data() + 512 * group);
    std::copy(accumulators.begin(), accumulators.end(), d.data() + accumulators.size() * group);
  }
  const int d_count = static_cast<int>(accumulators.size()) / 128;
  Kernel(5, kernel_body(c, p.k, d_count))
      .run(threads, 65536,
           {image.address(), registers.address(), d.address(), p.a_layout.descriptor(0),
            p.b_layout.descriptor(kBStart)});
  return {d.data(), d.data() + d.size()};
}

void expect_float(const Case& c) {
  SCOPED_TRACE(std::string(c.types) + " n" + std::to_string(c.n));
  std::mt19937 random(static_cast<unsigned>(c.n));
  const Problem p(c, random);
  Accumulator d(64, std::vector<float>(256));
  for (auto& row : d)
    for (float& x : row) x = numeric::f16_to_f32(static_cast<uint16_t>(random_code(random, InputType::kF16)));
  const bool f16 = c.result == ResultType::kF16;
  const int d_count = f16 ? c.n / 4 : c.n / 2;
  std::vector<uint32_t> registers;
  for (int thread = 0; thread < 128; ++thread)
    for (int r = 0; r < d_count; ++r) {
      const auto at =
          f16 ? numeric::d_position_16(thread % 32, r, 0) : numeric::d_position_32(thread % 32, r);
      const float* x = &d[thread / 32 * 16 + at.row][at.column];
      registers.push_back(f16 ? numeric::f32_to_f16(x[0]) | uint32_t{numeric::f32_to_f16(x[1])} << 16
                              : std::bit_cast<uint32_t>(x[0]));
    }
  const std::vector<uint32_t> got = run(c, p, registers);
  const Accumulator want = expected(c, p, d);
  for (int thread = 0; thread < 128; ++thread) {
    for (int r = 0; r < d_count; ++r) {
      const auto at =
          f16 ? numeric::d_position_16(thread % 32, r, 0) : numeric::d_position_32(thread % 32, r);
      const float* x = &want[thread / 32 * 16 + at.row][at.column];
      const uint32_t word = f16 ? numeric::f32_to_f16(x[0]) | uint32_t{numeric::f32_to_f16(x[1])} << 16
                                : std::bit_cast<uint32_t>(x[0]);
      ASSERT_EQ(got[thread * d_count + r], word) << "thread " << thread << " register " << r;
    }
  }
}

constexpr InputType kBf16 = InputType::kBf16, kF16 = InputType::kF16, kTf32 = InputType::kTf32;
constexpr InputType kE4m3 = InputType::kE4m3, kE5m2 = InputType::kE5m2;

TEST(Wgmma, Types) {
  expect_float({.types = "f32.bf16.bf16", .n = 64, .a = kBf16, .b = kBf16});
  expect_float({.types = "f32.f16.f16", .n = 256, .a = kF16, .b = kF16});
  expect_float({.types = "f16.f16.f16", .n = 40, .a = kF16, .b = kF16, .result = ResultType::kF16});
  expect_float({.types = "f32.tf32.tf32", .n = 24, .a = kTf32, .b = kTf32});
  expect_float({.types = "f32.e4m3.e5m2", .n = 128, .a = kE4m3, .b = kE5m2});
  expect_float({.types = "f16.e5m2.e4m3", .n = 16, .a = kE5m2, .b = kE4m3, .result = ResultType::kF16});
}

TEST(Wgmma, EveryN) {
  for (int n = 8; n <= 256; n += 8) expect_float({.types = "f32.e4m3.e4m3", .n = n, .a = kE4m3, .b = kE4m3});
}

TEST(Wgmma, Swizzles) {
  for (const int s : {16, 32, 64, 128}) {
    expect_float({.types = "f32.e4m3.e4m3", .n = 72, .a = kE4m3, .b = kE4m3, .a_swizzle = s, .b_swizzle = s});
    for (const bool a_mn : {false, true})
      for (const bool b_mn : {false, true})
        expect_float({.types = "f32.bf16.bf16",
                      .n = 136,
                      .a = kBf16,
                      .b = kBf16,
                      .a_swizzle = s,
                      .b_swizzle = s,
                      .a_mn_major = a_mn,
                      .b_mn_major = b_mn});
  }
}

TEST(Wgmma, RegistersSignsAndFirstProduct) {
  expect_float({.types = "f32.bf16.bf16",
                .n = 32,
                .a = kBf16,
                .b = kBf16,
                .b_mn_major = true,
                .a_in_registers = true});
  expect_float(
      {.types = "f32.e4m3.e4m3", .n = 32, .a = kE4m3, .b = kE4m3, .a_in_registers = true, .negate_a = true});
  expect_float(
      {.types = "f32.tf32.tf32", .n = 32, .a = kTf32, .b = kTf32, .a_in_registers = true, .negate_b = true});
  expect_float({.types = "f32.f16.f16", .n = 48, .a = kF16, .b = kF16, .accumulate = false});
}

TEST(Wgmma, Integers) {
  const Case c{.types = "s32.s8.u8", .n = 96, .a = InputType::kS8, .b = InputType::kU8};
  std::mt19937 random(1);
  const Problem p(c, random);
  std::vector<uint32_t> start(128 * 48);
  for (uint32_t& x : start) x = static_cast<uint32_t>(random());
  const std::vector<uint32_t> got = run(c, p, start);
  for (int thread = 0; thread < 128; ++thread) {
    for (int r = 0; r < 48; ++r) {
      const auto at = numeric::d_position_32(thread % 32, r);
      uint32_t want = start[48 * thread + r];
      for (int k = 0; k < 32; ++k)
        want += static_cast<uint32_t>(static_cast<int8_t>(p.a[thread / 32 * 16 + at.row][k]) *
                                      static_cast<int>(p.b[at.column][k]));
      ASSERT_EQ(got[48 * thread + r], want);
    }
  }
}

TEST(Wgmma, TwoWarpgroupsEachTheirOwn) {
  const Case c{.types = "f32.bf16.bf16", .n = 8, .a = kBf16, .b = kBf16};
  std::mt19937 random(2);
  const Problem p(c, random);
  const std::vector<uint32_t> start(128 * 4);
  const std::vector<uint32_t> got = run(c, p, start, 256);
  EXPECT_TRUE(std::equal(got.begin(), got.begin() + 512, got.begin() + 512));
  EXPECT_EQ(std::vector<uint32_t>(got.begin(), got.begin() + 512), run(c, p, start));
}

std::string fault_of(const std::string& body, uint32_t threads) {
  try {
    Kernel(0, "mov.b64 %d0, 0;\nmov.b64 %d1, 0x4000000000000000;\n" + body).run(threads, 1024, {});
  } catch (const Fault& f) {
    return f.what();
  }
  return "no fault";
}

TEST(Wgmma, Misuse) {
  const std::string product =
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0,%f1,%f2,%f3}, %d0, %d0, 1, 1, 1, 0, 0;\n";
  EXPECT_NE(fault_of(product, 96).find("[wgmma] needs four warps from warp 0 on; the block has 3"),
            std::string::npos);
  EXPECT_NE(fault_of(product, 128).find("[bounds.shared]"), std::string::npos);
  EXPECT_NE(fault_of("setp.eq.u32 %p0, %lane, 3;\n@%p0 mov.b64 %d0, 4;\n" + product, 128)
                .find("descriptor of A is not the same"),
            std::string::npos);
  EXPECT_NE(fault_of("setp.lt.u32 %p0, %lane, 16;\n@%p0 wgmma.fence.sync.aligned;\n", 128)
                .find("[divergence] wgmma.fence"),
            std::string::npos);
  // One warp does not commit: the others wait for ever, or for its end.
  const std::string three_commit =
      "setp.lt.u32 %p0, %t, 96;\n@%p0 wgmma.commit_group.sync.aligned;\n@%p0 wgmma.wait_group.sync.aligned "
      "0;\n";
  EXPECT_NE(fault_of(three_commit, 128).find("[wgmma] warp 3 of the warpgroup ended after 0 of the 1 groups"),
            std::string::npos);
  EXPECT_NE(fault_of(three_commit + "bar.sync 0;\n", 128).find("[deadlock]"), std::string::npos);
}

TEST(Wgmma, WaitsForAllButTheLatestGroups) {
  const std::string commit = "wgmma.commit_group.sync.aligned;\n",
                    wait_one = "wgmma.wait_group.sync.aligned 1;\n";
  // Warp 3 commits one group less and stays: with one group still allowed to be pending, nobody waits for it.
  const std::string uneven = commit + "setp.lt.u32 %p0, %t, 96;\n@%p0 " + commit + wait_one + "bar.sync 0;\n";
  EXPECT_EQ(fault_of(uneven, 128), "no fault");
}

}  // namespace
}  // namespace ptxsim
