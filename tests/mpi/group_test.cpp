#include "mpi/group.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "base/job.h"
#include "base/philox.h"
#include "base/timer.h"
#include "mpi/mesh.h"

namespace contender {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Every rank can compute every rank's data: value i of `rank` in test case `key`. Magnitudes over six
// decades, so that the order of a sum shows in its last bits.
float value(int rank, int64_t i, uint32_t key) {
  const PhiloxBlock b =
      philox(11, RandomStream::kTest, static_cast<uint64_t>(i), static_cast<uint32_t>(rank), key);
  return normal01(b[0], b[1]) * std::pow(10.0f, 6.0f * uniform01(b[2]) - 3.0f);
}
std::vector<float> values(int rank, int64_t n, uint32_t key) {
  std::vector<float> x(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) x[static_cast<size_t>(i)] = value(rank, i, key);
  return x;
}

float tree_reference(std::vector<float> x) {
  while (x.size() > 1) {
    std::vector<float> half;
    for (size_t i = 0; i < x.size(); i += 2) half.push_back(x[i] + x[i + 1]);
    x = half;
  }
  return x[0];
}
// Sum over ranks of value(rank, i, key).
float tree_value(int size, int64_t i, uint32_t key) {
  std::vector<float> x;
  for (int r = 0; r < size; ++r) x.push_back(value(r, i, key));
  return tree_reference(x);
}

bool same_bits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

int64_t num_different(const std::vector<float>& a, const std::vector<float>& b) {
  int64_t different = a.size() != b.size();
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) different += !same_bits(a[i], b[i]);
  return different;
}

class GroupTest : public testing::Test {
 protected:
  static int world_size() { return launcher_info().size; }
  Mesh mesh_{{.dp = world_size(), .edp = world_size()}};
  Group& g_ = mesh_.world();
  int rank_ = g_.rank();
  int size_ = g_.size();

  // Ragged row counts with zeros among them.
  std::vector<int64_t> ragged_counts(int64_t scale) const {
    std::vector<int64_t> counts;
    for (int p = 0; p < size_; ++p) counts.push_back(p % 3 == 1 ? 0 : scale + p);
    return counts;
  }
  static int64_t offset(const std::vector<int64_t>& counts, int p) {
    return std::accumulate(counts.begin(), counts.begin() + p, int64_t{0});
  }
};

TEST(ShardRange, CoversInOrderWithMultiplesOf16) {
  for (const int64_t n :
       {int64_t{0}, int64_t{1}, int64_t{15}, int64_t{16}, int64_t{17}, int64_t{1000}, int64_t{123457}}) {
    for (const int size : {1, 2, 4, 8}) {
      int64_t at = 0;
      for (int r = 0; r < size; ++r) {
        const auto [begin, end] = shard_range(n, r, size);
        EXPECT_EQ(begin, at);
        EXPECT_LE(begin, end);
        EXPECT_TRUE(end == n || end % 16 == 0);
        at = end;
      }
      EXPECT_EQ(at, n) << size;
    }
  }
}

TEST_F(GroupTest, AllGatherRowsRagged) {
  for (const int64_t scale : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{900}}) {
    const int64_t cols = 33;
    const std::vector<int64_t> counts = ragged_counts(scale);
    const int64_t total = offset(counts, size_);
    std::vector<float> mine = values(rank_, counts[static_cast<size_t>(rank_)] * cols, 1),
                       out(static_cast<size_t>(total * cols), kNan);
    g_.all_gather_rows("gather", f32_tensor(mine.data(), counts[static_cast<size_t>(rank_)], cols),
                       f32_tensor(out.data(), total, cols), counts.data())
        .wait();
    std::vector<float> expected;
    for (int p = 0; p < size_; ++p) {
      const std::vector<float> x = values(p, counts[static_cast<size_t>(p)] * cols, 1);
      expected.insert(expected.end(), x.begin(), x.end());
    }
    EXPECT_EQ(num_different(out, expected), 0) << "scale " << scale;
  }
}

TEST_F(GroupTest, AllGatherRowsInPlaceAndOtherTypes) {
  const std::vector<int64_t> counts(static_cast<size_t>(size_), 3);
  std::vector<int32_t> rows(static_cast<size_t>(size_ * 3 * 5), -1);
  const Tensor out = i32_tensor(rows.data(), size_ * 3, 5);
  const Tensor mine = out.row_range(rank_ * 3, rank_ * 3 + 3);
  for (int i = 0; i < 15; ++i) mine.i32()[i] = 100 * rank_ + i;
  g_.all_gather_rows("gather", mine, out, counts.data()).wait();
  for (int p = 0; p < size_; ++p) {
    for (int i = 0; i < 15; ++i) EXPECT_EQ(rows[static_cast<size_t>(p * 15 + i)], 100 * p + i);
  }
}

TEST_F(GroupTest, ReduceScatterRowsIsTheTreeToTheBit) {
  for (const int64_t scale : {int64_t{0}, int64_t{1}, int64_t{5}, int64_t{700}}) {
    const int64_t cols = 17;
    const std::vector<int64_t> counts = ragged_counts(scale);
    const int64_t total = offset(counts, size_), mine = counts[static_cast<size_t>(rank_)],
                  begin = offset(counts, rank_);
    std::vector<float> x = values(rank_, total * cols, 2), out(static_cast<size_t>(mine * cols), kNan),
                       expected;
    for (int64_t i = 0; i < mine * cols; ++i) expected.push_back(tree_value(size_, begin * cols + i, 2));
    const Tensor in = f32_tensor(x.data(), total, cols);
    g_.reduce_scatter_rows("reduce", in, f32_tensor(out.data(), mine, cols), counts.data()).wait();
    EXPECT_EQ(num_different(out, expected), 0) << "scale " << scale;
    g_.reduce_scatter_rows("reduce", in, in.row_range(begin, begin + mine), counts.data())
        .wait();  // in place
    std::vector<float> part(x.begin() + begin * cols, x.begin() + (begin + mine) * cols);
    EXPECT_EQ(num_different(part, expected), 0) << "scale " << scale;
  }
}

TEST_F(GroupTest, FlatShardsReduceAndGather) {
  for (const int64_t n : {int64_t{1}, int64_t{16}, int64_t{100}, int64_t{20011}}) {
    const std::vector<float> x = values(rank_, n, 3);
    const auto [begin, end] = shard_range(n, rank_, size_);
    std::vector<float> shard(static_cast<size_t>(end - begin), kNan), all(static_cast<size_t>(n), kNan),
        expected;
    for (int64_t i = 0; i < n; ++i) expected.push_back(tree_value(size_, i, 3));
    g_.reduce_scatter_flat("reduce", x.data(), n, shard.data()).wait();
    EXPECT_EQ(num_different(shard, {expected.begin() + begin, expected.begin() + end}), 0);
    g_.all_gather_flat("gather", shard.data(), n, all.data()).wait();
    EXPECT_EQ(num_different(all, expected), 0);
  }
}

TEST_F(GroupTest, FixedOrderSignedZeroAndNanSurvive) {
  const float terms[] = {1e8f, 1.0f, -1e8f, 1.0f};  // (1e8 + 1) + (-1e8 + 1) = 0 in float, left to right = 1
  const float x[] = {-0.0f, rank_ == size_ - 1 ? kNan : 1.0f, terms[rank_ % 4]};
  std::vector<float> sum(3, 7.0f);
  g_.reduce_scatter_flat("reduce", x, 3, sum.data()).wait();  // a piece of 16: all of it to member 0
  if (rank_ > 0) return;
  EXPECT_TRUE(same_bits(sum[0], -0.0f));
  EXPECT_TRUE(std::isnan(sum[1]));
  EXPECT_EQ(sum[2], size_ == 1 ? 1e8f : size_ == 2 ? 1e8f + 1 : 0.0f);
}

TEST_F(GroupTest, SumsMaximaBroadcastAndBytes) {
  int64_t sums[] = {rank_ + 1, -(int64_t{1} << 40) * rank_};
  g_.all_reduce_sum("sum", sums, 2);
  EXPECT_EQ(sums[0], size_ * (size_ + 1) / 2);
  EXPECT_EQ(sums[1], -(int64_t{1} << 40) * (size_ * (size_ - 1) / 2));

  double maxima[] = {rank_ * 1.5, -1.0 - rank_, rank_ == 0 ? std::nan("") : 5.0};
  g_.all_reduce_max("max", maxima, 3);
  EXPECT_EQ(maxima[0], 1.5 * (size_ - 1));
  EXPECT_EQ(maxima[1], -1.0);
  EXPECT_TRUE(std::isnan(maxima[2]));

  ExactSum sum, expected;
  for (int r = 0; r < size_; ++r) {
    for (int64_t i = 0; i < 50; ++i) {
      if (r == rank_) sum.add(value(r, i, 5));
      expected.add(value(r, i, 5));
    }
  }
  g_.all_reduce_sum("exact", sum);
  EXPECT_EQ(sum.value(), expected.value());

  for (int root = 0; root < size_; ++root) {
    for (const int64_t n : {int64_t{1}, int64_t{100000}}) {
      std::vector<float> x =
          rank_ == root ? values(root, n, 6) : std::vector<float>(static_cast<size_t>(n), kNan);
      g_.broadcast("broadcast", x.data(), n * 4, root);
      EXPECT_EQ(num_different(x, values(root, n, 6)), 0) << "root " << root;
    }
  }

  const std::vector<std::string> all =
      g_.all_gather_bytes("bytes", std::string(static_cast<size_t>(rank_ * 1000), 'a' + rank_));
  ASSERT_EQ(all.size(), static_cast<size_t>(size_));
  for (int p = 0; p < size_; ++p)
    EXPECT_EQ(all[static_cast<size_t>(p)], std::string(static_cast<size_t>(p * 1000), 'a' + p));
  g_.barrier("barrier");
}

// One exchange of blocks: rank r sends count(r, p) rows to p.
struct BlocksCase {
  Group& g;
  int64_t capacity, cols;
  uint32_t key;
  std::vector<float> send, recv;
  std::vector<int32_t> counts;

  int32_t count(int from, int to) const {
    const uint32_t word =
        philox(12, RandomStream::kTest, key, static_cast<uint32_t>(from), static_cast<uint32_t>(to))[0];
    return word % 4 == 0 ? 0 : static_cast<int32_t>(word % static_cast<uint32_t>(capacity + 1));
  }
  Tensor tensor(std::vector<float>& x) const { return f32_tensor(x.data(), g.size() * capacity, cols); }
  Pending begin(const char* name) {
    send = values(g.rank(), g.size() * capacity * cols, key);
    recv.assign(send.size(), kNan);
    for (int p = 0; p < g.size(); ++p) counts.push_back(count(g.rank(), p));
    return g.exchange_blocks({name, tensor(send), counts.data(), tensor(recv), capacity});
  }
  void check() const {
    for (int p = 0; p < g.size(); ++p) {
      int64_t wrong = 0;
      for (int64_t i = 0; i < capacity * cols; ++i) {
        const float x = recv[static_cast<size_t>(p * capacity * cols + i)];
        const bool used = i < count(p, g.rank()) * cols;
        wrong += used ? !same_bits(x, value(p, g.rank() * capacity * cols + i, key)) : !std::isnan(x);
      }
      EXPECT_EQ(wrong, 0) << "from " << p;
    }
  }
};

TEST_F(GroupTest, BlocksThereAndBack) {
  for (const int64_t capacity : {int64_t{0}, int64_t{1}, int64_t{6}, int64_t{300}}) {
    BlocksCase c{g_, capacity, 40, static_cast<uint32_t>(20 + capacity)};
    c.begin("dispatch").wait();
    c.check();
    std::vector<float> back(c.send.size(), kNan);
    std::vector<int32_t> arrived;
    for (int p = 0; p < size_; ++p) arrived.push_back(c.count(p, rank_));
    g_.exchange_blocks({"combine", c.tensor(c.recv), arrived.data(), c.tensor(back), capacity}).wait();
    for (int p = 0; p < size_; ++p) {
      const auto begin = c.send.begin() + p * capacity * 40;
      std::fill(begin + c.counts[static_cast<size_t>(p)] * 40, begin + capacity * 40, kNan);
    }
    EXPECT_EQ(num_different(back, c.send), 0) << "capacity " << capacity;
  }
}

TEST_F(GroupTest, AllToAll) {
  for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{30}}) {
    std::vector<int32_t> send, expected, recv(static_cast<size_t>(size_ * n), -1);
    for (int p = 0; p < size_; ++p) {
      for (int64_t i = 0; i < n; ++i) {
        send.push_back(static_cast<int32_t>(1000 * rank_ + 100 * p + i));
        expected.push_back(static_cast<int32_t>(1000 * p + 100 * rank_ + i));
      }
    }
    g_.all_to_all("headers", send.data(), recv.data(), n).wait();
    EXPECT_EQ(recv, expected);
  }
}

TEST_F(GroupTest, MoreRowsThanABlockHoldsNamesPeerRowsAndRoom) {
  std::vector<int32_t> counts(static_cast<size_t>(size_), 0);
  counts.back() = 5;
  std::vector<float> rows(static_cast<size_t>(size_ * 4 * 2)), recv = rows;
  try {
    g_.exchange_blocks({"dispatch", f32_tensor(rows.data(), size_ * 4, 2), counts.data(),
                        f32_tensor(recv.data(), size_ * 4, 2), 4});
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kInternal);
    EXPECT_NE(
        std::string(e.what()).find(fmt::format("\"dispatch\": 5 rows for rank {}, room for 4", size_ - 1)),
        std::string::npos)
        << e.what();
  }
}

TEST_F(GroupTest, SeveralInFlightCompleteInAnyOrder) {
  for (int round = 0; round < 20; ++round) {
    const uint32_t key = 40 + 8 * static_cast<uint32_t>(round);
    BlocksCase a{g_, 40, 64, key}, b{g_, 3, 64, key + 1}, c{g_, 200, 64, key + 2};
    const int64_t n = 9001;
    std::vector<float> x = values(rank_, n, key + 3), expected;
    const auto [begin, end] = shard_range(n, rank_, size_);
    for (int64_t i = begin; i < end; ++i) expected.push_back(tree_value(size_, i, key + 3));
    std::vector<float> shard(static_cast<size_t>(end - begin), kNan);

    Pending pa = a.begin("dispatch");
    Pending pr = g_.reduce_scatter_flat("reduce", x.data(), n, shard.data());
    Pending pb = b.begin("dispatch");
    Pending pc = c.begin("dispatch");
    if (rank_ % 2 == 0) {
      pc.wait();
      pb.wait();
    } else {
      while (!pb.poke()) {
      }
    }
    pr.wait();
    pa.wait();
    pc.wait();
    pb.wait();
    EXPECT_FALSE(pa.active() || pb.active() || pc.active() || pr.active());
    a.check();
    b.check();
    c.check();
    EXPECT_EQ(num_different(shard, expected), 0);
  }
}

TEST_F(GroupTest, DestructorAndMoveComplete) {
  std::vector<float> x = values(rank_, 100, 50), y = values(rank_, 100, 51);
  std::vector<float> all(static_cast<size_t>(100 * size_), kNan), all2 = all;
  const std::vector<int64_t> counts(static_cast<size_t>(size_), 1);
  {
    Pending p = g_.all_gather_rows("one", f32_tensor(x.data(), 1, 100), f32_tensor(all.data(), size_, 100),
                                   counts.data());
    p = g_.all_gather_rows("two", f32_tensor(y.data(), 1, 100), f32_tensor(all2.data(), size_, 100),
                           counts.data());
    EXPECT_FALSE(std::isnan(all[static_cast<size_t>(100 * size_ - 1)]));  // the assignment waited for "one"
  }
  for (int p = 0; p < size_; ++p) {
    EXPECT_TRUE(same_bits(all[static_cast<size_t>(p * 100 + 7)], value(p, 7, 50)));
    EXPECT_TRUE(same_bits(all2[static_cast<size_t>(p * 100 + 7)], value(p, 7, 51)));
  }
}

TEST_F(GroupTest, ScratchIsReused) {
  const int64_t n = 30000;
  std::vector<float> x(static_cast<size_t>(n), 1.0f), shard(static_cast<size_t>(n));
  int64_t after_first = 0;
  for (int i = 0; i < 10; ++i) {
    BlocksCase c{g_, 10, 8, 60};
    c.begin("dispatch").wait();
    g_.reduce_scatter_flat("reduce", x.data(), n, shard.data()).wait();
    g_.barrier("barrier");
    if (i == 0) after_first = g_.scratch_bytes();
  }
  EXPECT_EQ(g_.scratch_bytes(), after_first);
  EXPECT_EQ(after_first > 0, size_ > 1);
}

TEST_F(GroupTest, CountsSentBytes) {
  take_sent_bytes();
  const std::vector<float> x(64, 1.0f);
  int64_t sums[32] = {};
  g_.all_reduce_sum("sum", sums, 32);
  EXPECT_EQ(take_sent_bytes(), std::countr_zero(static_cast<unsigned>(size_)) * 256);
  std::vector<float> all(static_cast<size_t>(64 * size_));
  g_.all_gather_flat("gather", x.data(), 64 * size_, all.data()).wait();
  EXPECT_EQ(take_sent_bytes(), (size_ - 1) * 256);
  EXPECT_EQ(take_sent_bytes(), 0);
}

// Two chunks in flight: computing on one hides the delay of the other.
TEST_F(GroupTest, DelayIsHiddenByComputation) {
  if (size_ == 1) GTEST_SKIP() << "a group of one sends nothing";
  job_position().step = 9'000'007;  // which no other test of this process reaches
  add_fault("delay@9000007:*:20ms");
  std::vector<float> x(64, 1.0f), all(static_cast<size_t>(64 * size_));
  g_.barrier("barrier");
  int64_t start = now_ns();
  g_.all_gather_flat("gather", x.data(), 64 * size_, all.data()).wait();
  EXPECT_GE(now_ns() - start, 20'000'000);

  g_.barrier("barrier");
  start = now_ns();
  Pending pending = g_.all_gather_flat("gather", x.data(), 64 * size_, all.data());
  const int64_t until = now_ns() + 25'000'000;
  bool early = false;
  while (now_ns() < until) early |= pending.poke() && now_ns() - start < 20'000'000;
  EXPECT_FALSE(early);
  const int64_t wait_start = now_ns();
  pending.wait();
  EXPECT_LT(now_ns() - wait_start, 5'000'000);
  job_position().step = 0;
}

}  // namespace
}  // namespace contender
