// The collectives on memory of a device beside the same ones on the host's: what every transport has to do,
// whatever the device.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/philox.h"
#include "mpi/mesh.h"

namespace contender {

class DeviceCollectives {
 public:
  DeviceCollectives(Device& device, const std::string& transport)
      : device_(device),
        mesh_({.dp = launcher_info().size, .edp = launcher_info().size}, &device, transport),
        host_mesh_({.dp = launcher_info().size, .edp = launcher_info().size}),
        nccl_(transport == "nccl") {}

  Mesh& mesh() { return mesh_; }
  Group& group() { return mesh_.world(); }
  int size() { return group().size(); }
  int rank() { return group().rank(); }

  // Of the device; the bytes 0xFF (NaN) unless given.
  template <class T>
  struct Array {
    Buffer buffer;
    T* data() const { return static_cast<T*>(buffer.data()); }
  };
  template <class T>
  Array<T> put(const std::vector<T>& values) {
    Array<T> a{Buffer(&device_, std::max<int64_t>(1, bytes(values)), "test")};
    if (!values.empty()) device_.upload(device_.compute_stream(), a.data(), values.data(), bytes(values));
    return a;
  }
  template <class T>
  Array<T> unset(int64_t n) {
    return put(poison<T>(n));
  }
  template <class T>
  std::vector<T> get(const Array<T>& a, int64_t n) {
    std::vector<T> values(static_cast<size_t>(n));
    if (n > 0) device_.download(device_.compute_stream(), values.data(), a.data(), bytes(values));
    return values;
  }

  // Every rank can make every rank's numbers, over six decades.
  std::vector<float> numbers(int rank, int64_t n, uint32_t key) const {
    std::vector<float> x(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      const PhiloxBlock b =
          philox(17, RandomStream::kTest, static_cast<uint64_t>(i), static_cast<uint32_t>(rank), key);
      x[static_cast<size_t>(i)] = normal01(b[0], b[1]) * std::pow(10.0f, 6.0f * uniform01(b[2]) - 3.0f);
    }
    return x;
  }

  // Rows to the peers and, with the counts that came, back. T: float, or uint16_t for BF16.
  template <class T>
  void blocks(int64_t capacity, int64_t cols, uint32_t key) {
    const int64_t n = size() * capacity * cols;
    std::vector<int32_t> counts, arrived;
    for (int p = 0; p < size(); ++p) {
      counts.push_back(count(rank(), p, capacity, key));
      arrived.push_back(count(p, rank(), capacity, key));
    }
    std::vector<T> rows(static_cast<size_t>(n)), expected = poison<T>(n), expected_back = poison<T>(n);
    for (int64_t i = 0; i < n; ++i) rows[static_cast<size_t>(i)] = static_cast<T>(rank() * n + i);
    exchange_on_host("dispatch", rows, counts, expected, capacity, cols);
    exchange_on_host("combine", expected, arrived, expected_back, capacity, cols);

    const auto send = put(rows), recv = unset<T>(n), back = unset<T>(n);
    const auto to = put(counts), from = put(arrived);
    const Tensor there = tensor(recv, capacity, cols);
    group().exchange_blocks({"dispatch", tensor(send, capacity, cols), to.data(), there, capacity}).wait();
    group().exchange_blocks({"combine", there, from.data(), tensor(back, capacity, cols), capacity}).wait();
    expect_used_rows(get(recv, n), expected, arrived, capacity * cols, cols);
    expect_used_rows(get(back, n), expected_back, counts, capacity * cols, cols);
  }

  void all_to_all(int64_t n) {
    std::vector<int32_t> send, expected;
    for (int p = 0; p < size(); ++p) {
      for (int64_t i = 0; i < n; ++i) {
        send.push_back(static_cast<int32_t>(1000 * rank() + 100 * p + i));
        expected.push_back(static_cast<int32_t>(1000 * p + 100 * rank() + i));
      }
    }
    const auto from = put(send), to = unset<int32_t>(size() * n);
    group().all_to_all("headers", from.data(), to.data(), n).wait();
    EXPECT_EQ(get(to, size() * n), expected);
  }

  // Ragged pieces with empty ones among them; then in place.
  void rows(int64_t scale, int64_t cols) {
    std::vector<int64_t> counts;
    for (int p = 0; p < size(); ++p) counts.push_back(scale < 0 ? -scale : p % 3 == 1 ? 0 : scale + p);
    int64_t total = 0, begin = 0;
    for (int p = 0; p < size(); ++p) {
      if (p == rank()) begin = total;
      total += counts[static_cast<size_t>(p)];
    }
    const int64_t own = counts[static_cast<size_t>(rank())];
    std::vector<float> mine = numbers(rank(), own * cols, 1), all(static_cast<size_t>(total * cols)),
                       x = numbers(rank(), total * cols, 2), sum(static_cast<size_t>(own * cols));
    Group& host = host_mesh_.world();
    host.all_gather_rows("gather", f32_tensor(mine.data(), own, cols), f32_tensor(all.data(), total, cols),
                         counts.data())
        .wait();
    host.reduce_scatter_rows("reduce", f32_tensor(x.data(), total, cols), f32_tensor(sum.data(), own, cols),
                             counts.data())
        .wait();

    const auto piece = put(mine), gathered = unset<float>(total * cols), in = put(x),
               out = unset<float>(own * cols);
    const Tensor whole = f32_tensor(gathered.data(), total, cols), terms = f32_tensor(in.data(), total, cols);
    group().all_gather_rows("gather", f32_tensor(piece.data(), own, cols), whole, counts.data()).wait();
    EXPECT_EQ(get(gathered, total * cols), all) << scale;
    group().all_gather_rows("gather", whole.row_range(begin, begin + own), whole, counts.data()).wait();
    EXPECT_EQ(get(gathered, total * cols), all) << scale << " in place";
    group().reduce_scatter_rows("reduce", terms, f32_tensor(out.data(), own, cols), counts.data()).wait();
    expect_sums(get(out, own * cols), sum);
    group().reduce_scatter_rows("reduce", terms, terms.row_range(begin, begin + own), counts.data()).wait();
    const std::vector<float> after = get(in, total * cols);
    expect_sums({after.begin() + begin * cols, after.begin() + (begin + own) * cols}, sum);
  }

  void shards(int64_t n) {
    const auto [begin, end] = shard_range(n, rank(), size());
    const std::vector<float> x = numbers(rank(), n, 3);
    std::vector<float> sum(static_cast<size_t>(end - begin)), all(static_cast<size_t>(n));
    host_mesh_.world().reduce_scatter_flat("reduce", x.data(), n, sum.data()).wait();
    const auto in = put(x), shard = unset<float>(end - begin), whole = unset<float>(n), mine = put(sum);
    group().reduce_scatter_flat("reduce", in.data(), n, shard.data()).wait();
    expect_sums(get(shard, end - begin), sum);
    host_mesh_.world().all_gather_flat("gather", sum.data(), n, all.data()).wait();
    group().all_gather_flat("gather", mine.data(), n, whole.data()).wait();
    EXPECT_EQ(get(whole, n), all) << n;
  }

  // Three kinds at once, waited for in another order on every other rank.
  void several_in_flight(int rounds) {
    constexpr int64_t kN = 4001, kRows = 24, kCols = 8;
    for (int round = 0; round < rounds; ++round) {
      const uint32_t key = 100 + static_cast<uint32_t>(round);
      const auto [begin, end] = shard_range(kN, rank(), size());
      const std::vector<float> x = numbers(rank(), kN, key), y = numbers(rank(), kRows * kCols, key + 1);
      std::vector<float> sum(static_cast<size_t>(end - begin)), whole;
      host_mesh_.world().reduce_scatter_flat("reduce", x.data(), kN, sum.data()).wait();
      for (int p = 0; p < size(); ++p) {
        const std::vector<float> piece = numbers(p, kRows * kCols, key + 1);
        whole.insert(whole.end(), piece.begin(), piece.end());
      }
      const std::vector<int64_t> counts(static_cast<size_t>(size()), kRows);
      std::vector<int32_t> word(static_cast<size_t>(size()), rank()), words;
      for (int p = 0; p < size(); ++p) words.push_back(p);

      const auto terms = put(x), shard = unset<float>(end - begin), mine = put(y),
                 all = unset<float>(size() * kRows * kCols);
      const auto send = put(word), recv = unset<int32_t>(size());
      Pending reduce = group().reduce_scatter_flat("reduce", terms.data(), kN, shard.data());
      Pending gather = group().all_gather_rows("gather", f32_tensor(mine.data(), kRows, kCols),
                                               f32_tensor(all.data(), size() * kRows, kCols), counts.data());
      Pending headers = group().all_to_all("headers", send.data(), recv.data(), 1);
      if (rank() % 2 == 0) {
        headers.wait();
        reduce.wait();
      }
      while (!gather.poke()) {
      }
      reduce.wait();
      headers.wait();
      EXPECT_FALSE(reduce.active() || gather.active() || headers.active());
      expect_sums(get(shard, end - begin), sum);
      EXPECT_EQ(get(all, size() * kRows * kCols), whole);
      EXPECT_EQ(get(recv, size()), words);
    }
  }

 private:
  template <class T>
  static int64_t bytes(const std::vector<T>& v) {
    return static_cast<int64_t>(v.size() * sizeof(T));
  }
  template <class T>
  static std::vector<T> poison(int64_t n) {
    std::vector<T> v(static_cast<size_t>(n));
    if (n > 0) std::memset(v.data(), 0xFF, v.size() * sizeof(T));
    return v;
  }
  template <class T>
  static constexpr DType dtype() {
    return sizeof(T) == 2 ? DType::kBF16 : DType::kF32;
  }
  template <class T>
  Tensor tensor(const Array<T>& a, int64_t capacity, int64_t cols) {
    return {a.data(), dtype<T>(), size() * capacity, cols};
  }
  // None, all, or some.
  static int32_t count(int from, int to, int64_t capacity, uint32_t key) {
    const uint32_t word =
        philox(18, RandomStream::kTest, key, static_cast<uint32_t>(from), static_cast<uint32_t>(to))[0];
    if (word % 4 < 2) return word % 4 == 0 ? 0 : static_cast<int32_t>(capacity);
    return static_cast<int32_t>(word % static_cast<uint32_t>(capacity + 1));
  }
  template <class T>
  void exchange_on_host(const char* name, std::vector<T>& send, const std::vector<int32_t>& counts,
                        std::vector<T>& recv, int64_t capacity, int64_t cols) {
    const Tensor from(send.data(), dtype<T>(), size() * capacity, cols),
        to(recv.data(), dtype<T>(), size() * capacity, cols);
    host_mesh_.world().exchange_blocks({name, from, counts.data(), to, capacity}).wait();
  }
  // NCCL and a group of one write the unused rows too.
  template <class T>
  void expect_used_rows(const std::vector<T>& x, const std::vector<T>& expected,
                        const std::vector<int32_t>& counts, int64_t block, int64_t cols) {
    for (int p = 0; p < size(); ++p) {
      const size_t begin = static_cast<size_t>(p * block);
      const int64_t n = nccl_ || size() == 1 ? counts[static_cast<size_t>(p)] * cols : block;
      EXPECT_TRUE(n == 0 || std::memcmp(x.data() + begin, expected.data() + begin,
                                        static_cast<size_t>(n) * sizeof(T)) == 0)
          << "rows from member " << p << " of rank " << rank();
    }
  }
  void expect_sums(const std::vector<float>& x, const std::vector<float>& expected) {
    ASSERT_EQ(x.size(), expected.size());
    for (size_t i = 0; i < x.size(); ++i) {
      if (!nccl_) {
        ASSERT_EQ(x[i], expected[i]) << i;
      } else {  // of numbers up to some 1e4
        ASSERT_NEAR(x[i], expected[i], 1e-2f + 1e-6f * std::abs(expected[i])) << i;
      }
    }
  }

  Device& device_;
  Mesh mesh_, host_mesh_;
  bool nccl_;
};

}  // namespace contender
