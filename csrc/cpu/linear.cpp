#include "ops/linear.h"

#include <algorithm>
#include <bit>

#include "cpu/cpu_ops.h"
#include "cpu/gemm.h"
#include "cpu/tree_sum.h"

namespace contender::cpu {
namespace {

// w[n, k] -> panels over n: panel[k][j] = w[n0 + j][k].
void pack_forward(const float* w, int64_t ld, int64_t n, int64_t k, float* packed) {
  constexpr int64_t kBlock = 16;  // columns of w taken at a time: a cache line per row
  for (int64_t n0 = 0; n0 < n; n0 += kWeightPanel, packed += kWeightPanel * k) {
    const int64_t cols = std::min(kWeightPanel, n - n0);
    if (cols < kWeightPanel) std::fill_n(packed, kWeightPanel * k, 0.0f);
    for (int64_t k0 = 0; k0 < k; k0 += kBlock) {
      const int64_t k1 = std::min(k, k0 + kBlock);
      for (int64_t j = 0; j < cols; ++j) {
        const float* row = w + (n0 + j) * ld;
        for (int64_t i = k0; i < k1; ++i) packed[i * kWeightPanel + j] = row[i];
      }
    }
  }
}

const float* floats(const void* packed) { return static_cast<const float*>(packed); }

// y = x w^T of one group, rows of x and y given.
Product forward_product(const Tensor& x, const WeightView& w, const Tensor& y, float* scratch) {
  CHECK(w.forward != nullptr, "the forward form is not packed");
  CHECK(x.rows == y.rows && x.cols == w.k && y.cols == w.n, "x {} x {} w {} x {} y {} x {}", x.rows, x.cols,
        w.n, w.k, y.rows, y.cols);
  return {.m = x.rows,
          .n = w.n,
          .k = w.k,
          .a = x.f32(),
          .lda = x.ld,
          .panels = floats(w.forward),
          .c = y.f32(),
          .ldc = y.ld,
          .scratch = scratch};
}

// dx = dy w of one group.
Product backward_product(const Tensor& dy, const WeightView& w, const Tensor& dx, float* scratch) {
  CHECK(w.backward != nullptr, "the backward form is not packed");
  CHECK(dy.rows == dx.rows && dy.cols == w.n && dx.cols == w.k, "dy {} x {} w {} x {} dx {} x {}", dy.rows,
        dy.cols, w.n, w.k, dx.rows, dx.cols);
  return {.m = dy.rows,
          .n = w.k,
          .k = w.n,
          .a = dy.f32(),
          .lda = dy.ld,
          .panels = floats(w.backward),
          .c = dx.f32(),
          .ldc = dx.ld,
          .scratch = scratch};
}

float* product_scratch(const Exec& exec, int64_t m, const WeightView& w) {
  const int64_t need = linear_workspace_bytes(m, w.n, w.k, 1);
  CHECK(exec.workspace_bytes >= need, "workspace of {} bytes, needed {}", exec.workspace_bytes, need);
  return static_cast<float*>(exec.workspace);
}

void check_offsets(const int32_t* offsets, int64_t groups, int64_t rows) {
  CHECK(offsets[0] == 0 && offsets[groups] <= rows, "offsets {} ... {} of {} rows", offsets[0],
        offsets[groups], rows);
}

// The chain of one (group, leaf) for a block of dw.
struct WgradBlock {
  Tensor dy;  // columns of the block
  Tensor x;
  int64_t capacity = 0;
  float* left = nullptr;
  float* right = nullptr;

  void chain(const RowSegment* begin, const RowSegment* end, TreeSum::Matrix c) const {
    OuterProduct p = {.n = dy.cols,
                      .k = x.cols,
                      .capacity = capacity,
                      .left = left,
                      .right = right,
                      .c = c.data,
                      .ldc = c.ld};
    for (const RowSegment* s = begin; s != end; ++s) {
      for (int64_t r = s->begin; r < s->end;) {
        const int64_t rows = std::min<int64_t>(s->end - r, capacity - p.rows);
        pack_outer_left(dy.row(r), dy.ld, rows, dy.cols, p.rows, capacity, left);
        pack_outer_right(x.row(r), x.ld, rows, x.cols, p.rows, capacity, right);
        p.rows += rows;
        r += rows;
        if (p.rows == capacity) {
          outer_product(p);
          p.rows = 0;
          p.resume = true;
        }
      }
    }
    if (p.rows > 0) outer_product(p);
  }
};

int64_t rows_of(const RowSegment* begin, const RowSegment* end) {
  int64_t rows = 0;
  for (; begin != end; ++begin) rows += begin->end - begin->begin;
  return rows;
}

// One block of dw of one group: leaf by leaf, summed in the tree. [begin, end) are the group's segments.
void wgrad_block(const WgradBlock& block, const RowSegment* begin, const RowSegment* end, int32_t num_leaves,
                 const Tensor& dw, float* tree) {
  TreeSum sum(dw.f32(), dw.ld, dw.rows, dw.cols, tree);
  for (int32_t leaf = 0; leaf < num_leaves; ++leaf) {
    const RowSegment* leaf_end =
        std::find_if(begin, end, [&](const RowSegment& s) { return s.leaf != leaf; });
    const bool present = rows_of(begin, leaf_end) > 0;
    if (present) block.chain(begin, leaf_end, sum.next());
    sum.push(present);
    begin = leaf_end;
  }
  sum.finish();
}

void check_segments(const RowSegments& segments, int64_t num_groups, int64_t rows) {
  CHECK(std::has_single_bit(static_cast<uint32_t>(segments.num_leaves)), "leaves {}", segments.num_leaves);
  for (int32_t i = 0; i < segments.count; ++i) {
    const RowSegment& s = segments.data[i];
    CHECK(0 <= s.begin && s.begin <= s.end && s.end <= rows, "segment {}: rows [{}, {}) of {}", i, s.begin,
          s.end, rows);
    CHECK(0 <= s.group && s.group < num_groups && 0 <= s.leaf && s.leaf < segments.num_leaves,
          "segment {}: group {} leaf {}", i, s.group, s.leaf);
    if (i == 0) continue;
    const RowSegment& before = segments.data[i - 1];
    CHECK(before.group < s.group || (before.group == s.group && before.leaf <= s.leaf),
          "segment {} is out of order", i);
  }
}

}  // namespace

void pack_weight(const Exec&, const PackWeightArgs& args) {
  CHECK(args.master.rows == args.num_groups * args.n && args.master.cols == args.k,
        "master {} x {}, {} groups of {} x {}", args.master.rows, args.master.cols, args.num_groups, args.n,
        args.k);
  for (int64_t g = 0; g < args.num_groups; ++g) {
    const Tensor w = args.master.row_range(g * args.n, (g + 1) * args.n);
    if (args.forward) {
      char* dst = static_cast<char*>(args.forward) + g * packed_forward_bytes(args.n, args.k);
      pack_forward(w.f32(), w.ld, args.n, args.k, reinterpret_cast<float*>(dst));
    }
    if (args.backward) {
      char* dst = static_cast<char*>(args.backward) + g * packed_backward_bytes(args.n, args.k);
      pack_outer_right(w.f32(), w.ld, args.n, args.k, 0, args.n, reinterpret_cast<float*>(dst));
    }
  }
}

void linear(const Exec& exec, const LinearArgs& args) {
  Product p = forward_product(args.x, args.w, args.y, product_scratch(exec, args.x.rows, args.w));
  p.bias = args.bias;
  p.slices = args.slices;
  p.accumulate = args.accumulate;
  product(p);
}

void linear_dgrad(const Exec& exec, const LinearDgradArgs& args) {
  Product p = backward_product(args.dy, args.w, args.dx, product_scratch(exec, args.dy.rows, args.w));
  p.slices = args.slices;
  p.accumulate = args.accumulate;
  product(p);
}

void grouped_linear(const Exec& exec, const GroupedLinearArgs& args) {
  check_offsets(args.offsets, args.w.num_groups, args.x.rows);
  float* scratch = product_scratch(exec, args.x.rows, args.w);
  for (int64_t g = 0; g < args.w.num_groups; ++g) {
    const int64_t begin = args.offsets[g], end = args.offsets[g + 1];
    if (begin == end) continue;
    product(forward_product(args.x.row_range(begin, end), args.w.group(g), args.y.row_range(begin, end),
                            scratch));
  }
}

void grouped_linear_dgrad(const Exec& exec, const GroupedLinearDgradArgs& args) {
  check_offsets(args.offsets, args.w.num_groups, args.dy.rows);
  float* scratch = product_scratch(exec, args.dy.rows, args.w);
  for (int64_t g = 0; g < args.w.num_groups; ++g) {
    const int64_t begin = args.offsets[g], end = args.offsets[g + 1];
    if (begin == end) continue;
    product(backward_product(args.dy.row_range(begin, end), args.w.group(g), args.dx.row_range(begin, end),
                             scratch));
  }
}

void heads_linear(const Exec& exec, const HeadsLinearArgs& args) {
  float* scratch = product_scratch(exec, args.x.rows, args.w);
  const int64_t in = args.transposed ? args.w.n : args.w.k;
  const int64_t out = args.transposed ? args.w.k : args.w.n;
  for (int64_t h = 0; h < args.w.num_groups; ++h) {
    const Tensor x = args.x.col_range(h * args.x_stride, h * args.x_stride + in);
    const Tensor y = args.y.col_range(h * args.y_stride, h * args.y_stride + out);
    const WeightView w = args.w.group(h);
    product(args.transposed ? backward_product(x, w, y, scratch) : forward_product(x, w, y, scratch));
  }
}

void linear_wgrad(const Exec& exec, const LinearWgradArgs& args) {
  const int64_t n = args.dy.cols, k = args.x.cols, m = args.x.rows;
  CHECK(args.dy.rows == m && args.dw.rows == args.num_groups * n && args.dw.cols == k,
        "dy {} x {} x {} x {} dw {} x {} groups {}", args.dy.rows, n, m, k, args.dw.rows, args.dw.cols,
        args.num_groups);
  const RowSegments& segments = args.segments;
  check_segments(segments, args.num_groups, m);
  const int64_t need = linear_wgrad_workspace_bytes(m, n, k, segments.num_leaves);
  CHECK(exec.workspace_bytes >= need, "workspace of {} bytes, needed {}", exec.workspace_bytes, need);

  const int64_t capacity = std::min(m, kOuterRows);
  float* left = static_cast<float*>(exec.workspace);
  float* right = left + outer_left_floats(capacity, std::min(n, kOuterN));
  float* tree = right + outer_right_floats(capacity, std::min(k, kOuterK));
  const int64_t n_blocks = ceil_div(n, kOuterN), k_blocks = ceil_div(k, kOuterK);
  const RowSegment* begin = segments.data;
  const RowSegment* last = segments.data + segments.count;
  for (int64_t g = 0; g < args.num_groups; ++g) {
    const RowSegment* end = std::find_if(begin, last, [&](const RowSegment& s) { return s.group != g; });
    const Tensor dw = args.dw.row_range(g * n, (g + 1) * n);
    for (int64_t i = 0; i < n_blocks; ++i) {
      const int64_t n0 = n * i / n_blocks, n1 = n * (i + 1) / n_blocks;
      for (int64_t j = 0; j < k_blocks; ++j) {
        const int64_t k0 = std::min(k, j * kOuterK), k1 = std::min(k, k0 + kOuterK);
        const WgradBlock block = {.dy = args.dy.col_range(n0, n1),
                                  .x = args.x.col_range(k0, k1),
                                  .capacity = capacity,
                                  .left = left,
                                  .right = right};
        wgrad_block(block, begin, end, segments.num_leaves, dw.row_range(n0, n1).col_range(k0, k1), tree);
      }
    }
    begin = end;
  }
}

void heads_wgrad(const Exec& exec, const HeadsWgradArgs& args) {
  CHECK(args.num_heads > 0 && args.dw.rows % args.num_heads == 0, "dw of {} rows, {} heads", args.dw.rows,
        args.num_heads);
  const int64_t n = args.dw.rows / args.num_heads, k = args.dw.cols;
  for (int64_t h = 0; h < args.num_heads; ++h) {
    linear_wgrad(exec, {.dy = args.dy.col_range(h * args.dy_stride, h * args.dy_stride + n),
                        .x = args.x.col_range(h * args.x_stride, h * args.x_stride + k),
                        .dw = args.dw.row_range(h * n, (h + 1) * n),
                        .segments = args.segments});
  }
}

}  // namespace contender::cpu
