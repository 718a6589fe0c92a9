// mma.sync, ldmatrix, stmatrix and movmatrix as kernels, against matrices on the host.
#include "exec/mma.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

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

// Registers %r0.. of every lane from p0, the instruction, then `out` registers from %r<first_out> on to p1.
// Register k of lane l is word 32 k + l.
std::vector<uint32_t> run_registers(const std::string& instruction, std::vector<uint32_t> in, int first_out,
                                    int out, const std::string& kind = "%r", int words = 1) {
  const int bytes = 4 * words;
  const std::string type = words == 2 ? "b64" : "b32";
  std::string body = "ld.param.u64 %d254, [p0];\nld.param.u64 %d255, [p1];\nmul.wide.u32 %d253, %lane, " +
                     std::to_string(bytes) +
                     ";\nadd.u64 %d254, %d254, %d253;\nadd.u64 %d255, %d255, %d253;\n";
  const int inputs = static_cast<int>(in.size()) / (32 * words);
  for (int k = 0; k < inputs; ++k)
    body += "ld.global." + type + " " + kind + std::to_string(k) + ", [%d254+" +
            std::to_string(32 * bytes * k) + "];\n";
  body += instruction + "\n";
  for (int k = 0; k < out; ++k)
    body += "st.global." + type + " [%d255+" + std::to_string(32 * bytes * k) + "], " + kind +
            std::to_string(first_out + k) + ";\n";
  DeviceArray<uint32_t> from(in.size()), to(static_cast<size_t>(32 * words * out));
  std::copy(in.begin(), in.end(), from.data());
  Kernel(2, body).run(32, 0, {from.address(), to.address()});
  return {to.data(), to.data() + to.size()};
}

struct Case {
  const char* types;  // "f32.bf16.bf16.f32"
  int m, k;
  InputType a, b;
  ResultType result = ResultType::kF32;
};

// A 16 x k and B 8 x k (columns), as codes.
struct Operands {
  Operands(const Case& c, std::mt19937& random) : k(c.k) {
    for (auto& row : a)
      for (uint32_t& x : row) x = random_code(random, c.a);
    for (auto& row : b)
      for (uint32_t& x : row) x = random_code(random, c.b);
  }
  int k;
  uint32_t a[16][32], b[8][32];
};

RawPanel panel(InputType type, const uint32_t (*codes)[32], int vectors, const std::vector<int>& ks) {
  RawPanel raw{};
  const int bytes = numeric::input_bytes(type);
  for (int v = 0; v < vectors; ++v)
    for (size_t k = 0; k < ks.size(); ++k)
      raw.word[k * bytes / 4][v] |= codes[v][ks[k]] << 8 * (k * bytes % 4);
  return raw;
}

std::vector<uint32_t> fragments(const Case& c, const Operands& o, const std::vector<uint32_t>& accumulator) {
  const int bytes = numeric::input_bytes(c.a), per = 4 / bytes;
  std::vector<uint32_t> words;
  for (int r = 0; r < c.m * c.k * bytes / 128; ++r)
    for (int lane = 0; lane < 32; ++lane) {
      uint32_t word = 0;
      for (int e = 0; e < per; ++e) {
        const auto p = numeric::a_position(bytes, lane, r, e);
        word |= o.a[p.row][p.column] << 8 * bytes * e;
      }
      words.push_back(word);
    }
  for (int r = 0; r < c.k * bytes / 16; ++r)
    for (int lane = 0; lane < 32; ++lane) {
      uint32_t word = 0;
      for (int e = 0; e < per; ++e) {
        const auto p = numeric::b_position(bytes, lane, r, e);
        word |= o.b[p.column][p.row] << 8 * bytes * e;
      }
      words.push_back(word);
    }
  words.insert(words.end(), accumulator.begin(), accumulator.end());
  return words;
}

// The sum of the model over the elements `ks`, in d[column][row].
void add_product(const Case& c, const Operands& o, const numeric::SumModel& model, const std::vector<int>& ks,
                 float (*d)[kPanelVectors]) {
  Panel a, b;
  const int words = static_cast<int>(ks.size()) * numeric::input_bytes(c.a) / 4;
  const int depth = decode(c.a, panel(c.a, o.a, 16, ks), words, false, a);
  decode(c.b, panel(c.b, o.b, 8, ks), words, false, b);
  multiply_add(model, Accumulation::kHardware, c.result, b, 8, a, depth, d);
}

void expect_float(const Case& c) {
  SCOPED_TRACE(std::string(c.types) + " k" + std::to_string(c.k));
  std::mt19937 random(static_cast<unsigned>(c.k));
  const Operands o(c, random);
  float d[8][kPanelVectors];
  for (auto& column : d)
    for (float& x : column)
      x = numeric::f16_to_f32(static_cast<uint16_t>(random_code(random, InputType::kF16)));
  const bool f16 = c.result == ResultType::kF16;
  const int c_count = f16 ? 2 : 4;
  std::vector<uint32_t> accumulator;
  for (int r = 0; r < c_count; ++r)
    for (int lane = 0; lane < 32; ++lane) {
      const auto p = f16 ? numeric::d_position_16(lane, r, 0) : numeric::d_position_32(lane, r);
      accumulator.push_back(f16 ? numeric::f32_to_f16(d[p.column][p.row]) |
                                      uint32_t{numeric::f32_to_f16(d[p.column + 1][p.row])} << 16
                                : std::bit_cast<uint32_t>(d[p.column][p.row]));
    }
  const std::vector<uint32_t> in = fragments(c, o, accumulator);
  const int a_count = c.k * numeric::input_bytes(c.a) / 8, b_count = a_count / 2;
  const std::string instruction = "mma.sync.aligned.m16n8k" + std::to_string(c.k) + ".row.col." + c.types +
                                  " " + registers("%r", 100, c_count) + ", " + registers("%r", 0, a_count) +
                                  ", " + registers("%r", a_count, b_count) + ", " +
                                  registers("%r", a_count + b_count, c_count) + ";";
  const std::vector<uint32_t> got = run_registers(instruction, in, 100, c_count);

  std::vector<int> all, low, high;
  for (int k = 0; k < c.k; ++k) {
    all.push_back(k);
    (k % 4 < 2 ? low : high).push_back(k);
  }
  if (numeric::input_bytes(c.a) == 1) {
    float sum[8][kPanelVectors] = {};
    add_product(c, o, numeric::kSumFp8Mma, low, sum);
    add_product(c, o, numeric::kSumFp8Mma, high, sum);
    for (int n = 0; n < 8; ++n)
      for (int m = 0; m < 16; ++m) d[n][m] += sum[n][m];
  } else {
    add_product(c, o, numeric::sum_model(c.a), all, d);
  }
  for (int r = 0; r < c_count; ++r) {
    for (int lane = 0; lane < 32; ++lane) {
      for (int e = 0; e < (f16 ? 2 : 1); ++e) {
        const auto p = f16 ? numeric::d_position_16(lane, r, e) : numeric::d_position_32(lane, r);
        const float want = d[p.column][p.row];
        const uint32_t word = got[32 * r + lane];
        if (f16)
          ASSERT_EQ(word >> 16 * e & 0xffff, numeric::f32_to_f16(want));
        else
          ASSERT_EQ(word, std::bit_cast<uint32_t>(want));
        ASSERT_TRUE(std::isfinite(want));
      }
    }
  }
}

TEST(Mma, FloatShapesAndTypes) {
  for (const Case& c :
       {Case{"f32.bf16.bf16.f32", 16, 8, InputType::kBf16, InputType::kBf16},
        Case{"f32.bf16.bf16.f32", 16, 16, InputType::kBf16, InputType::kBf16},
        Case{"f32.f16.f16.f32", 16, 8, InputType::kF16, InputType::kF16},
        Case{"f32.f16.f16.f32", 16, 16, InputType::kF16, InputType::kF16},
        Case{"f16.f16.f16.f16", 16, 16, InputType::kF16, InputType::kF16, ResultType::kF16},
        Case{"f32.tf32.tf32.f32", 16, 4, InputType::kTf32, InputType::kTf32},
        Case{"f32.tf32.tf32.f32", 16, 8, InputType::kTf32, InputType::kTf32},
        Case{"f32.e4m3.e5m2.f32", 16, 16, InputType::kE4m3, InputType::kE5m2},
        Case{"f32.e5m2.e4m3.f32", 16, 32, InputType::kE5m2, InputType::kE4m3},
        Case{"f16.e4m3.e4m3.f16", 16, 32, InputType::kE4m3, InputType::kE4m3, ResultType::kF16}})
    expect_float(c);
}

TEST(Mma, Integers) {
  for (const Case& c : {Case{"s32.s8.u8.s32", 16, 32, InputType::kS8, InputType::kU8},
                        Case{"s32.u8.s8.s32", 16, 16, InputType::kU8, InputType::kS8},
                        Case{"s32.s8.s8.s32", 8, 16, InputType::kS8, InputType::kS8}}) {
    for (const bool saturate : {false, true}) {
      std::mt19937 random(4);
      const Operands o(c, random);
      const int c_count = c.m / 4, a_count = c.m * c.k / 128, b_count = c.k / 16;
      std::vector<uint32_t> accumulator(32 * c_count);
      for (uint32_t& x : accumulator) x = random() % 2 ? 0x7ffffff0 : static_cast<uint32_t>(random());
      const std::string instruction = "mma.sync.aligned.m" + std::to_string(c.m) + "n8k" +
                                      std::to_string(c.k) + ".row.col." + (saturate ? "satfinite." : "") +
                                      c.types + " " + registers("%r", 100, c_count) + ", " +
                                      registers("%r", 0, a_count) + ", " + registers("%r", a_count, b_count) +
                                      ", " + registers("%r", a_count + b_count, c_count) + ";";
      const std::vector<uint32_t> got =
          run_registers(instruction, fragments(c, o, accumulator), 100, c_count);
      for (int r = 0; r < c_count; ++r) {
        for (int lane = 0; lane < 32; ++lane) {
          const auto p = numeric::d_position_32(lane, r);
          int64_t sum = static_cast<int32_t>(accumulator[32 * r + lane]);
          for (int k = 0; k < c.k; ++k) {
            const uint32_t a = o.a[p.row][k], b = o.b[p.column][k];
            sum += (c.a == InputType::kS8 ? static_cast<int8_t>(a) : static_cast<int>(a)) *
                   (c.b == InputType::kS8 ? static_cast<int8_t>(b) : static_cast<int>(b));
          }
          if (saturate) sum = std::clamp<int64_t>(sum, INT32_MIN, INT32_MAX);
          ASSERT_EQ(got[32 * r + lane], static_cast<uint32_t>(sum)) << c.types;
        }
      }
    }
  }
}

TEST(Mma, Doubles) {
  for (const auto& [m, k] : {std::pair{8, 4}, {16, 4}, {16, 8}, {16, 16}}) {
    std::mt19937_64 random(8);
    const auto value = [&] { return std::ldexp(static_cast<double>(static_cast<int64_t>(random())), -60); };
    double a[16][16], b[16][8], c[16][8];
    for (auto& row : a)
      for (double& x : row) x = value();
    for (auto& row : b)
      for (double& x : row) x = value();
    for (auto& row : c)
      for (double& x : row) x = value();
    std::vector<uint32_t> in;
    const auto push = [&](double x) {
      const uint64_t bits = std::bit_cast<uint64_t>(x);
      in.push_back(static_cast<uint32_t>(bits));
      in.push_back(static_cast<uint32_t>(bits >> 32));
    };
    const int a_count = m * k / 32, b_count = k / 4, c_count = m / 4;
    for (int r = 0; r < a_count; ++r)
      for (int l = 0; l < 32; ++l)
        push(a[numeric::a_position_f64(l, r).row][numeric::a_position_f64(l, r).column]);
    for (int r = 0; r < b_count; ++r)
      for (int l = 0; l < 32; ++l)
        push(b[numeric::b_position_f64(l, r).row][numeric::b_position_f64(l, r).column]);
    for (int r = 0; r < c_count; ++r)
      for (int l = 0; l < 32; ++l)
        push(c[numeric::d_position_32(l, r).row][numeric::d_position_32(l, r).column]);
    const std::string instruction = "mma.sync.aligned.m" + std::to_string(m) + "n8k" + std::to_string(k) +
                                    ".row.col.f64.f64.f64.f64 " + registers("%d", 100, c_count) + ", " +
                                    registers("%d", 0, a_count) + ", " + registers("%d", a_count, b_count) +
                                    ", " + registers("%d", a_count + b_count, c_count) + ";";
    const std::vector<uint32_t> got = run_registers(instruction, in, 100, c_count, "%d", 2);
    for (int r = 0; r < c_count; ++r) {
      for (int l = 0; l < 32; ++l) {
        const auto p = numeric::d_position_32(l, r);
        double want = c[p.row][p.column];
        for (int j = 0; j < k; ++j) want = std::fma(a[p.row][j], b[j][p.column], want);
        double have;
        std::memcpy(&have, &got[64 * r + 2 * l], 8);
        ASSERT_EQ(have, want) << m << "x8x" << k;
      }
    }
  }
}

TEST(Mma, ADivergedWarpFails) {
  const std::string instruction =
      "setp.lt.u32 %p0, %lane, 7;\n@%p0 mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%r0,%r1,%r2,%r3}, "
      "{%r0,%r1,%r2,%r3}, {%r0,%r1}, {%r0,%r1,%r2,%r3};";
  try {
    run_registers(instruction, std::vector<uint32_t>(128), 0, 4);
    FAIL() << "not caught";
  } catch (const Fault& f) {
    EXPECT_NE(std::string(f.what()).find("[divergence] mma.sync needs all 32 lanes"), std::string::npos)
        << f.what();
  }
}

// --- ldmatrix, stmatrix, movmatrix ---

// Four 8x8 matrices in shared memory, rows 48 bytes apart; lane l gives the address of row l % 8 of matrix l
// / 8.
TEST(MatrixMove, LoadsAndStores) {
  for (const int matrices : {1, 2, 4}) {
    for (const bool transposed : {false, true}) {
      const std::string num = ".x" + std::to_string(matrices) + (transposed ? ".trans" : "") + ".shared.b16 ";
      // Words from p0 into shared memory, ldmatrix, stmatrix without .trans behind it, everything to p1 and
      // p2.
      const std::string body =
          "mul.lo.u32 %r400, %lane, 48;\nmov.u32 %r401, smem;\nadd.u32 %r400, %r400, %r401;\n"
          "ld.param.u64 %d0, [p0];\nld.param.u64 %d1, [p1];\nld.param.u64 %d2, [p2];\n"
          "mul.wide.u32 %d3, %lane, 16;\nadd.u64 %d0, %d0, %d3;\nadd.u64 %d2, %d2, %d3;\n"
          "mul.wide.u32 %d3, %lane, 4;\nadd.u64 %d1, %d1, %d3;\n"
          "ld.global.v4.u32 {%r0,%r1,%r2,%r3}, [%d0];\nst.shared.v4.u32 [%r400], {%r0,%r1,%r2,%r3};\n"
          "bar.warp.sync 0xffffffff;\n"
          "ldmatrix.sync.aligned.m8n8" +
          num + registers("%r", 10, matrices) + ", [%r400];\n" + "stmatrix.sync.aligned.m8n8.x" +
          std::to_string(matrices) + ".shared.b16 [%r400+16], " + registers("%r", 10, matrices) + ";\n" +
          "bar.warp.sync 0xffffffff;\nld.shared.v4.u32 {%r0,%r1,%r2,%r3}, [%r400+16];\n"
          "st.global.v4.u32 [%d2], {%r0,%r1,%r2,%r3};\nst.global.u32 [%d1], %r10;\n" +
          (matrices > 1 ? "st.global.u32 [%d1+128], %r11;\n" : "") +
          (matrices > 2 ? "st.global.u32 [%d1+256], %r12;\nst.global.u32 [%d1+384], %r13;\n" : "");
      DeviceArray<uint16_t> in(256), stored(256);
      DeviceArray<uint32_t> out(128);
      for (size_t k = 0; k < 256; ++k) in[k] = static_cast<uint16_t>(1000 + k);
      Kernel(3, body).run(32, 2048, {in.address(), out.address(), stored.address()});
      for (int r = 0; r < matrices; ++r) {
        for (int lane = 0; lane < 32; ++lane) {
          for (int e = 0; e < 2; ++e) {
            int row = lane / 4, column = lane % 4 * 2 + e;
            const uint16_t at_store = stored[static_cast<size_t>(64 * r + 8 * row + column)];
            if (transposed) std::swap(row, column);
            const uint16_t want = static_cast<uint16_t>(1000 + 64 * r + 8 * row + column);
            ASSERT_EQ(out[static_cast<size_t>(32 * r + lane)] >> 16 * e & 0xffff, want);
            ASSERT_EQ(at_store, want);
          }
        }
      }
    }
  }
}

TEST(MatrixMove, TransposesInRegisters) {
  std::vector<uint32_t> in(32);
  for (uint32_t l = 0; l < 32; ++l) in[l] = (100 + 2 * l) | (101 + 2 * l) << 16;
  const std::vector<uint32_t> got =
      run_registers("movmatrix.sync.aligned.m8n8.trans.b16 %r0, %r0;", in, 0, 1);
  for (uint32_t l = 0; l < 32; ++l)
    for (uint32_t e = 0; e < 2; ++e) ASSERT_EQ(got[l] >> 16 * e & 0xffff, 100 + 8 * (l % 4 * 2 + e) + l / 4);
}

TEST(MatrixMove, NeedsSharedMemoryAligned) {
  const std::string at = "mov.u32 %r1, smem;\nadd.u32 %r1, %r1, %r0;\n";
  for (const auto& [offset, word] : {std::pair{8u, "[alignment]"}, {4096u, "[bounds.shared]"}}) {
    try {
      run_registers(at + "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [%r1];",
                    std::vector<uint32_t>(32, offset), 2, 1);
      ADD_FAILURE() << "not caught";
    } catch (const Fault& f) {
      EXPECT_NE(std::string(f.what()).find(word), std::string::npos) << f.what();
    }
  }
}

}  // namespace
}  // namespace ptxsim
