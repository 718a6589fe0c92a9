#include "ops/head.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "cpu/cpu_ops.h"
#include "cpu/gemm.h"
#include "cpu/softmax_slice.h"
#include "cpu/tree_sum.h"
#include "cpu/vec_loop.h"
#include "ops/head_blocks.h"

namespace contender::cpu {
namespace {

void check_shapes(const Tensor& h, const WeightView& w, int32_t slices) {
  CHECK(h.cols == w.k, "h {} x {} w {} x {}", h.rows, h.cols, w.n, w.k);
  CHECK(slices >= 1 && std::has_single_bit(static_cast<uint32_t>(slices)) && w.n % slices == 0,
        "V {} slices {}", w.n, slices);
}

// Index of `target` in the `width` ids from `begin` on, or -1.
int64_t index_in(int64_t target, int64_t begin, int64_t width) {
  return begin <= target && target < begin + width ? target - begin : -1;
}

// dlogits of one row in place of its logits.
void logit_gradients(float* row, int64_t n, float inv_temperature, const HeadStats& stats, float dlogp,
                     float dentropy, int64_t target) {
  for_each_vector(n, [&](auto d, int64_t i) HWY_ATTR {
    const auto z = hn::Mul(hn::LoadU(d, row + i), hn::Set(d, inv_temperature));
    const auto logp = hn::Sub(z, hn::Set(d, stats.lse));
    const auto p = vec_exp(d, logp);
    const auto weight =
        hn::MulAdd(hn::Set(d, dentropy), hn::Add(logp, hn::Set(d, stats.entropy)), hn::Set(d, dlogp));
    hn::StoreU(hn::Mul(hn::Neg(hn::Mul(p, weight)), hn::Set(d, inv_temperature)), d, row + i);
  });
  if (target >= 0) row[target] = std::fma(dlogp, inv_temperature, row[target]);
}

// The backward pass over chunks of rows that have a gradient.
class HeadBackward {
 public:
  HeadBackward(const Exec& exec, const HeadBwdArgs& args)
      : args_(args),
        size_(args.w.k, args.w.n, args.segments.num_leaves),
        ld_h_(spread_stride(args.w.k)),
        ld_v_(spread_stride(args.w.n)) {
    CHECK(exec.workspace_bytes >= size_.total() * 4, "workspace of {} bytes, needed {}", exec.workspace_bytes,
          size_.total() * 4);
    float* at = static_cast<float*>(exec.workspace);
    const auto take = [&](int64_t floats) { return std::exchange(at, at + floats); };
    rows_ = reinterpret_cast<int32_t*>(take(size_.rows));
    h_ = take(size_.h);
    logits_ = take(size_.logits);
    dh_ = take(size_.dh);
    left_ = take(size_.left);
    right_ = take(size_.right);
    tree_ = take(size_.tree);
  }

  void run() {
    const RowSegments& s = args_.segments;
    TreeSum dw(args_.dw.f32(), args_.dw.ld, args_.w.n, args_.w.k, tree_);
    const RowSegment* begin = s.data;
    const RowSegment* end = s.data + s.count;
    for (int32_t leaf = 0; leaf < s.num_leaves; ++leaf) {
      const TreeSum::Matrix sum = dw.next();
      resume_ = false;
      for (; begin != end && begin->leaf == leaf; ++begin) {
        for (int32_t r = begin->begin; r < begin->end; ++r) add_row(r, &sum);
      }
      flush(&sum);
      dw.push(resume_);
    }
    CHECK(begin == end, "segments are not sorted by leaf");
    dw.finish();
    for (int32_t r = 0; r < args_.h.rows; ++r) {
      const bool in_a_leaf = std::any_of(s.data, s.data + s.count,
                                         [&](const RowSegment& x) { return x.begin <= r && r < x.end; });
      if (!in_a_leaf) add_row(r, nullptr);
    }
    flush(nullptr);
  }

 private:
  void add_row(int32_t r, const TreeSum::Matrix* dw) {
    if (args_.dlogp[r] == 0 && (!args_.dentropy || args_.dentropy[r] == 0)) {
      std::fill_n(args_.dh.row(r), args_.w.k, 0.0f);
      return;
    }
    std::memcpy(h_ + count_ * ld_h_, args_.h.row(r), static_cast<size_t>(args_.w.k) * sizeof(float));
    rows_[count_++] = r;
    if (count_ == kHeadChunkRows) flush(dw);
  }

  // Logits of the gathered rows, their gradients, dh, and the next links of dw's chains.
  void flush(const TreeSum::Matrix* dw) {
    if (count_ == 0) return;
    const int64_t vocab = args_.w.n, hidden = args_.w.k;
    product({.m = count_,
             .n = vocab,
             .k = hidden,
             .a = h_,
             .lda = ld_h_,
             .panels = static_cast<const float*>(args_.w.forward),
             .c = logits_,
             .ldc = ld_v_});
    for (int64_t i = 0; i < count_; ++i) {
      const int32_t r = rows_[i];
      logit_gradients(logits_ + i * ld_v_, vocab, args_.inv_temperature, args_.stats[r], args_.dlogp[r],
                      args_.dentropy ? args_.dentropy[r] : 0.0f,
                      index_in(args_.targets[r], args_.vocab_begin, vocab));
    }
    product({.m = count_,
             .n = hidden,
             .k = vocab,
             .a = logits_,
             .lda = ld_v_,
             .panels = static_cast<const float*>(args_.w.backward),
             .c = dh_,
             .ldc = ld_h_,
             .slices = args_.slices});
    for (int64_t i = 0; i < count_; ++i) {
      std::memcpy(args_.dh.row(rows_[i]), dh_ + i * ld_h_, static_cast<size_t>(hidden) * sizeof(float));
    }
    if (dw) add_outer(*dw);
    count_ = 0;
  }

  void add_outer(const TreeSum::Matrix& dw) {
    const int64_t vocab = args_.w.n, hidden = args_.w.k;
    pack_outer_right(h_, ld_h_, count_, hidden, 0, kHeadChunkRows, right_);
    for (int64_t v = 0; v < vocab; v += kOuterN) {
      const int64_t n = std::min(kOuterN, vocab - v);
      pack_outer_left(logits_ + v, ld_v_, count_, n, 0, kHeadChunkRows, left_);
      outer_product({.rows = count_,
                     .n = n,
                     .k = hidden,
                     .capacity = kHeadChunkRows,
                     .left = left_,
                     .right = right_,
                     .c = dw.data + v * dw.ld,
                     .ldc = dw.ld,
                     .resume = resume_});
    }
    resume_ = true;
  }

  const HeadBwdArgs& args_;
  const HeadBwdFloats size_;
  const int64_t ld_h_, ld_v_;
  int32_t* rows_;
  float *h_, *logits_, *dh_, *left_, *right_, *tree_;
  int64_t count_ = 0;    // rows gathered
  bool resume_ = false;  // dw holds unfinished chains
};

}  // namespace

void head_partial(const Exec& exec, const HeadPartialArgs& args) {
  check_shapes(args.h, args.w, args.slices);
  CHECK(args.w.forward != nullptr, "the forward form is not packed");
  const int64_t vocab = args.w.n, width = vocab / args.slices, ld = spread_stride(vocab);
  const HeadFloats size(args.w.k, vocab);
  CHECK(exec.workspace_bytes >= size.total() * 4, "workspace of {} bytes, needed {}", exec.workspace_bytes,
        size.total() * 4);
  float* logits = static_cast<float*>(exec.workspace);
  for (int64_t begin = 0; begin < args.h.rows; begin += kHeadChunkRows) {
    const int64_t rows = std::min(kHeadChunkRows, args.h.rows - begin);
    product({.m = rows,
             .n = vocab,
             .k = args.w.k,
             .a = args.h.row(begin),
             .lda = args.h.ld,
             .panels = static_cast<const float*>(args.w.forward),
             .c = logits,
             .ldc = ld,
             .scratch = logits + size.logits});
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t s = 0; s < args.slices; ++s) {
        const int64_t target = index_in(args.targets[begin + r], args.vocab_begin + s * width, width);
        args.partials[(begin + r) * args.slices + s] =
            slice_partial(logits + r * ld + s * width, width, args.inv_temperature, target);
      }
    }
  }
}

void head_finish(const Exec&, const HeadFinishArgs& args) {
  CHECK(args.slices >= 1 && std::has_single_bit(static_cast<uint32_t>(args.slices)), "slices {}",
        args.slices);
  for (int64_t r = 0; r < args.rows; ++r)
    args.stats[r] = finish_row(args.partials + r * args.slices, args.slices);
}

void head_bwd(const Exec& exec, const HeadBwdArgs& args) {
  check_shapes(args.h, args.w, args.slices);
  CHECK(args.w.forward != nullptr && args.w.backward != nullptr, "both forms must be packed");
  CHECK(args.dh.rows == args.h.rows && args.dh.cols == args.w.k && args.dw.rows == args.w.n &&
            args.dw.cols == args.w.k,
        "dh {} x {} dw {} x {}", args.dh.rows, args.dh.cols, args.dw.rows, args.dw.cols);
  CHECK(std::has_single_bit(static_cast<uint32_t>(args.segments.num_leaves)), "leaves {}",
        args.segments.num_leaves);
  HeadBackward(exec, args).run();
}

}  // namespace contender::cpu
