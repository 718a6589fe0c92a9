#include "numeric/fragments.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace ptxsim::numeric {
namespace {

// Every element of rows x columns is held exactly once.
class Cover {
 public:
  Cover(int rows, int columns) : rows_(rows), columns_(columns) {}
  void add(Position p) {
    EXPECT_TRUE(p.row >= 0 && p.row < rows_ && p.column >= 0 && p.column < columns_)
        << p.row << ", " << p.column;
    EXPECT_TRUE(seen_.insert({p.row, p.column}).second) << p.row << ", " << p.column;
  }
  ~Cover() { EXPECT_EQ(static_cast<int>(seen_.size()), rows_ * columns_); }

 private:
  int rows_, columns_;
  std::set<std::pair<int, int>> seen_;
};

TEST(Fragments, HoldEveryElementOnce) {
  for (int bytes : {1, 2, 4}) {
    for (int k_bytes : {16, 32}) {
      Cover a(16, k_bytes / bytes), b(k_bytes / bytes, 8);
      for (int lane = 0; lane < 32; ++lane) {
        for (int e = 0; e < 4 / bytes; ++e) {
          for (int r = 0; r < k_bytes / 8; ++r) a.add(a_position(bytes, lane, r, e));
          for (int r = 0; r < k_bytes / 16; ++r) b.add(b_position(bytes, lane, r, e));
        }
      }
    }
  }
  for (int n : {8, 24, 256}) {
    Cover wide(16, n), narrow(16, n);
    for (int lane = 0; lane < 32; ++lane) {
      for (int r = 0; r < n / 2; ++r) wide.add(d_position_32(lane, r));
      for (int r = 0; r < n / 4; ++r)
        for (int e = 0; e < 2; ++e) narrow.add(d_position_16(lane, r, e));
    }
  }
  Cover matrix(8, 8);
  for (int lane = 0; lane < 32; ++lane)
    for (int e = 0; e < 2; ++e) matrix.add(matrix_position(lane, e));
  for (int k : {4, 8, 16}) {
    Cover a(16, k), b(k, 8);
    for (int lane = 0; lane < 32; ++lane) {
      for (int r = 0; r < k / 2; ++r) a.add(a_position_f64(lane, r));
      for (int r = 0; r < k / 4; ++r) b.add(b_position_f64(lane, r));
    }
  }
}

// Single elements of the figures of the PTX ISA; lane 13 is thread 1 of group 3.
TEST(Fragments, MatchTheFigures) {
  EXPECT_EQ(a_position(2, 13, 0, 1), (Position{3, 3}));    // f16 a1
  EXPECT_EQ(a_position(2, 13, 1, 0), (Position{11, 2}));   // f16 a2
  EXPECT_EQ(a_position(2, 13, 2, 0), (Position{3, 10}));   // f16 a4
  EXPECT_EQ(a_position(2, 13, 3, 1), (Position{11, 11}));  // f16 a7
  EXPECT_EQ(b_position(2, 13, 1, 0), (Position{10, 3}));   // f16 b2
  EXPECT_EQ(a_position(4, 13, 1, 0), (Position{11, 1}));   // tf32 a1
  EXPECT_EQ(a_position(4, 13, 2, 0), (Position{3, 5}));    // tf32 a2
  EXPECT_EQ(a_position(1, 13, 0, 2), (Position{3, 6}));    // e4m3 a2
  EXPECT_EQ(a_position(1, 13, 2, 3), (Position{3, 23}));   // e4m3 a11
  EXPECT_EQ(b_position(1, 13, 1, 1), (Position{21, 3}));   // e4m3 b5
  EXPECT_EQ(d_position_32(13, 2), (Position{11, 2}));      // c2
  EXPECT_EQ(d_position_32(13, 7), (Position{11, 11}));     // d7 of wgmma
  EXPECT_EQ(d_position_16(13, 3, 1), (Position{11, 11}));  // d7 of wgmma, f16
  EXPECT_EQ(a_position_f64(13, 3), (Position{11, 5}));     // f64 m16n8k8 a3
  EXPECT_EQ(b_position_f64(13, 3), (Position{13, 3}));     // f64 m16n8k16 b3
  EXPECT_EQ(matrix_position(13, 1), (Position{3, 3}));
}

struct Registers {
  explicit Registers(int count) : values(32 * count) {
    std::iota(values.begin(), values.end(), 1000u);
    for (int r = 0; r < count; ++r) rows.push_back(values.data() + 32 * r);
  }
  std::vector<uint32_t> values;
  std::vector<uint32_t*> rows;
};

TEST(Fragments, GatherAndScatterFollowThePositions) {
  Registers regs(4);
  RawPanel panel{};
  gather_a(regs.rows.data(), 4, panel);
  for (int lane = 0; lane < 32; ++lane) {
    for (int r = 0; r < 4; ++r) {
      const Position p = a_position(1, lane, r, 0);
      EXPECT_EQ(panel.word[p.column / 4][p.row], regs.rows[r][lane]);
    }
  }
  panel = {};
  gather_b(regs.rows.data(), 2, panel);
  for (int lane = 0; lane < 32; ++lane) {
    for (int r = 0; r < 2; ++r) {
      const Position p = b_position(1, lane, r, 0);
      EXPECT_EQ(panel.word[p.row / 4][p.column], regs.rows[r][lane]);
    }
  }
  uint32_t d[16][kPanelVectors] = {}, t[16][kPanelVectors] = {};
  gather_d(regs.rows.data(), 8, d);
  gather_d_transposed(regs.rows.data(), t);
  for (int lane = 0; lane < 32; ++lane) {
    for (int r = 0; r < 4; ++r) {
      const Position p = d_position_32(lane, r);
      EXPECT_EQ(d[p.row][8 + p.column], regs.rows[r][lane]);
      EXPECT_EQ(t[p.column][p.row], regs.rows[r][lane]);
    }
  }
  Registers back(4), transposed(4);
  std::fill(back.values.begin(), back.values.end(), 0);
  std::fill(transposed.values.begin(), transposed.values.end(), 0);
  scatter_d(d, 8, back.rows.data());
  scatter_d_transposed(t, transposed.rows.data());
  EXPECT_EQ(back.values, regs.values);
  EXPECT_EQ(transposed.values, regs.values);
}

uint64_t descriptor(uint32_t start, uint32_t leading, uint32_t stride, uint64_t mode, uint64_t base = 0) {
  return uint64_t{start >> 4} | uint64_t{leading >> 4} << 16 | uint64_t{stride >> 4} << 32 | base << 49 |
         mode << 62;
}

constexpr struct {
  uint64_t mode;
  int pattern, period;  // bytes per row of the pattern; rows after which the permutation changes
} kSwizzles[] = {{1, 128, 1}, {2, 64, 2}, {3, 32, 4}};

// The layouts as pictures: in a row of the pattern, chunk c of row r of an 8-row group stands at c xor (r /
// period).
TEST(MatrixDescriptors, KMajor) {
  for (const auto& s : kSwizzles) {
    const uint32_t stride = static_cast<uint32_t>(s.pattern) * 8 * 3;
    for (int step = 0; step < s.pattern / 32; ++step) {  // instructions along k of one row of the pattern
      const auto m = MatrixDescriptor::from(descriptor(4096 + 32 * step, 16, stride, s.mode));
      for (int v = 0; v < 256; ++v) {
        for (int chunk = 0; chunk < 2; ++chunk) {
          const uint32_t column = (2 * step + chunk) ^ (v % 8 / s.period % (s.pattern / 16));
          EXPECT_EQ(m.k_major(v, chunk), 4096 + v / 8 * stride + v % 8 * s.pattern + column * 16);
        }
      }
    }
  }
  const auto m = MatrixDescriptor::from(descriptor(2048 + 16, 4096, 512, 0));
  EXPECT_EQ(m.k_major(13, 1), 2064u + 512 + 5 * 16 + 4096);
}

TEST(MatrixDescriptors, MnMajor) {
  for (const auto& s : kSwizzles) {
    const uint32_t leading = 16384, stride = static_cast<uint32_t>(s.pattern) * 8;
    const auto m = MatrixDescriptor::from(descriptor(8192, leading, stride, s.mode));
    for (int v = 0; v < 256; v += 8) {
      for (int k = 0; k < 16; ++k) {
        const uint32_t chunk = (v * 2 % s.pattern / 16) ^ (k % 8 / s.period % (s.pattern / 16));
        EXPECT_EQ(m.mn_major(v, k),
                  8192 + v * 2 / s.pattern * leading + k / 8 * stride + k % 8 * s.pattern + chunk * 16);
      }
    }
  }
  const auto m = MatrixDescriptor::from(descriptor(2048, 4096, 512, 0));
  EXPECT_EQ(m.mn_major(24, 11), 2048u + 3 * 512 + 4096 + 3 * 16);
}

// A matrix whose pattern begins 3 rows behind a multiple of 1024.
TEST(MatrixDescriptors, BaseOffsetMovesThePattern) {
  const auto aligned = MatrixDescriptor::from(descriptor(4096, 16, 1024, 1));
  const auto moved = MatrixDescriptor::from(descriptor(4096 + 384, 16, 1024, 1, 3));
  for (int v = 0; v < 64; ++v)
    for (int chunk = 0; chunk < 2; ++chunk)
      EXPECT_EQ(moved.k_major(v, chunk), aligned.k_major(v, chunk) + 384);
}

TEST(MatrixDescriptors, PanelsHoldTheElements) {
  std::vector<std::byte> shared(65536);
  std::mt19937 random(1);
  for (std::byte& b : shared) b = static_cast<std::byte>(random());
  const auto m = MatrixDescriptor::from(descriptor(4096, 2048, 1024, 1));
  for (int vectors : {8, 16}) {
    RawPanel k_panel, mn_panel;
    uint32_t chunks[2 * kPanelVectors];
    chunk_addresses(m, false, 40, vectors, chunks);
    load_panel(shared.data(), false, chunks, vectors, k_panel);
    chunk_addresses(m, true, 40, vectors, chunks);
    load_panel(shared.data(), true, chunks, vectors, mn_panel);
    for (int v = 0; v < kPanelVectors; ++v) {
      for (int k = 0; k < 16; ++k) {
        const int at = 40 + v;
        uint16_t by_k = 0, by_mn = 0;
        if (v < vectors) {
          std::memcpy(&by_k, shared.data() + m.k_major(at, k / 8) + k % 8 * 2, 2);
          std::memcpy(&by_mn, shared.data() + m.mn_major(at / 8 * 8, k) + at % 8 * 2, 2);
        }
        EXPECT_EQ(k_panel.word[k / 2][v] >> 16 * (k % 2) & 0xffff, by_k);
        EXPECT_EQ(mn_panel.word[k / 2][v] >> 16 * (k % 2) & 0xffff, by_mn);
      }
    }
  }
}

}  // namespace
}  // namespace ptxsim::numeric
