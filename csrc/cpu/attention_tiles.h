// Register tiles of the attention operator and its backward, and the walk over a sequence's pages.
//
// Two products occur. `score_rows` contracts over the features: query rows lie in the lanes (transposed
// once), features of a key are broadcast. `accumulate_rows` contracts over keys or queries: features lie in
// the lanes, weights are broadcast. In both a lane is one chain of fused multiply-adds in ascending order, so
// the tile an element falls in does not change its bits.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/vec_math.h"
#include "ops/attention.h"

namespace contender::cpu {

inline constexpr int64_t kKeyTile = 8;
inline constexpr int64_t kRowTile = kFloatLanes >= 16 ? 8 : 4;  // accumulators: kRowTile x 3 vectors
inline constexpr int64_t kVecTile = 3;

// Calls f with the narrowest vector tag that holds `rows` <= kFloatLanes lanes: decode has few rows, and
// narrow vectors issue faster.
template <class F>
void with_lane_tag(int64_t rows, const F& f) {
  if (rows <= 4) {
    f(hn::CappedTag<float, 4>());
  } else if (rows <= 8) {
    f(hn::CappedTag<float, 8>());
  } else {
    f(FloatTag());
  }
}

// Keys [key, key + count) of a sequence, in cache rows that follow each other; `next` is the row of the
// following run, or `row` itself where there is none.
struct KeyRun {
  int64_t key;
  int64_t count;
  int64_t row;
  int64_t next;
};

// Calls f(run) for the runs that make up keys [begin, end).
template <class F>
void for_each_run(const int32_t* page_ids, int64_t page_size, int64_t begin, int64_t end, const F& f) {
  int64_t row = begin < end ? page_ids[begin / page_size] * page_size + begin % page_size : 0;
  for (int64_t key = begin, page = begin / page_size; key < end;) {
    int64_t last = page;
    while ((last + 1) * page_size < end && page_ids[last + 1] == page_ids[last] + 1) ++last;
    const int64_t run_end = std::min((last + 1) * page_size, end);
    const int64_t next = run_end < end ? page_ids[last + 1] * page_size : row;
    f(KeyRun{key, run_end - key, row, next});
    key = run_end;
    page = last + 1;
    row = next;
  }
}

// to[c][lane] = from row `lane`, column c; lanes past `rows` repeat the last one. Blocks of 4 x 4; `lanes` is
// a multiple of 4.
template <class RowOf>
void transpose_rows(const RowOf& row_of, int64_t rows, int64_t lanes, int64_t cols, float* to) {
  const hn::FixedTag<float, 4> d;
  for (int64_t r = 0; r < lanes; r += 4) {
    const float* from[4];
    for (int64_t i = 0; i < 4; ++i) from[i] = row_of(std::min(r + i, rows - 1));
    int64_t c = 0;
    for (; c + 4 <= cols; c += 4) {
      const auto a = hn::LoadU(d, from[0] + c), b = hn::LoadU(d, from[1] + c), e = hn::LoadU(d, from[2] + c),
                 f = hn::LoadU(d, from[3] + c);
      const auto ab01 = hn::InterleaveLower(d, a, b), ef01 = hn::InterleaveLower(d, e, f);
      const auto ab23 = hn::InterleaveUpper(d, a, b), ef23 = hn::InterleaveUpper(d, e, f);
      hn::StoreU(hn::ConcatLowerLower(d, ef01, ab01), d, to + c * lanes + r);
      hn::StoreU(hn::ConcatUpperUpper(d, ef01, ab01), d, to + (c + 1) * lanes + r);
      hn::StoreU(hn::ConcatLowerLower(d, ef23, ab23), d, to + (c + 2) * lanes + r);
      hn::StoreU(hn::ConcatUpperUpper(d, ef23, ab23), d, to + (c + 3) * lanes + r);
    }
    for (; c < cols; ++c) {
      for (int64_t i = 0; i < 4; ++i) to[c * lanes + r + i] = from[i][c];
    }
  }
}

template <int kKeys, class D>
HWY_INLINE void score_tile(D d, const float* HWY_RESTRICT xt, int64_t features, const float* HWY_RESTRICT k,
                           int64_t ldk, float scale, float* HWY_RESTRICT out) {
  constexpr int64_t kLanesOfD = hn::MaxLanes(D());
  hn::Vec<D> acc[kKeys];
  for (auto& v : acc) v = hn::Zero(d);
  for (int64_t c = 0; c < features; ++c) {
    const auto x = hn::LoadU(d, xt + c * kLanesOfD);
    for (int j = 0; j < kKeys; ++j) acc[j] = hn::MulAdd(x, hn::Set(d, k[j * ldk + c]), acc[j]);
  }
  for (int j = 0; j < kKeys; ++j) hn::StoreU(hn::Mul(acc[j], hn::Set(d, scale)), d, out + j * kLanesOfD);
}

// Rows of which two tiles are computed while the rows are on their way.
inline constexpr int64_t kPrefetchDistance = 2 * kKeyTile;

inline void prefetch_rows(const float* k, int64_t ldk, int64_t features) {
  for (int64_t j = 0; j < kKeyTile; ++j) {
    for (int64_t c = 0; c < features; c += 16) hwy::Prefetch(k + j * ldk + c);
  }
}

// out[key][lane] = scale * (x[lane] . k[key]) for `count` key rows; xt as transpose_rows left it. `next` are
// the rows that the caller will ask for after these.
template <class D>
void score_rows(D d, const float* xt, int64_t features, const float* k, const float* next, int64_t ldk,
                int64_t count, float scale, float* out) {
  constexpr int64_t kLanesOfD = hn::MaxLanes(D());
  int64_t j = 0;
  for (; j + kKeyTile <= count; j += kKeyTile) {
    const int64_t ahead = j + kPrefetchDistance;
    prefetch_rows(ahead < count ? k + ahead * ldk : next + (ahead - count) * ldk, ldk, features);
    score_tile<kKeyTile>(d, xt, features, k + j * ldk, ldk, scale, out + j * kLanesOfD);
  }
  for (; j + 2 <= count; j += 2) score_tile<2>(d, xt, features, k + j * ldk, ldk, scale, out + j * kLanesOfD);
  if (j < count) score_tile<1>(d, xt, features, k + j * ldk, ldk, scale, out + j * kLanesOfD);
}

// Weights w[i * row + s * step] of output row i and contracted index s.
struct Weights {
  const float* data;
  int64_t row;
  int64_t step;
};

template <int kRows, int kVecs, bool kPartial>
HWY_INLINE void accumulate_tile(Weights w, const float* HWY_RESTRICT b, int64_t ldb, int64_t steps,
                                float* HWY_RESTRICT acc, int64_t ldacc, int64_t cols) {
  const FloatTag d;
  const auto last = hn::FirstN(d, static_cast<size_t>(cols - (kVecs - 1) * kFloatLanes));
  auto load = [&](const float* p, int v) {
    return kPartial && v == kVecs - 1 ? hn::MaskedLoad(last, d, p + v * kFloatLanes)
                                      : hn::LoadU(d, p + v * kFloatLanes);
  };
  FloatVec sum[kRows][kVecs];
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kVecs; ++v) sum[i][v] = load(acc + i * ldacc, v);
  }
  for (int64_t s = 0; s < steps; ++s) {
    FloatVec x[kVecs];
    for (int v = 0; v < kVecs; ++v) x[v] = load(b + s * ldb, v);
    for (int i = 0; i < kRows; ++i) {
      const auto weight = hn::Set(d, w.data[i * w.row + s * w.step]);
      for (int v = 0; v < kVecs; ++v) sum[i][v] = hn::MulAdd(weight, x[v], sum[i][v]);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kVecs; ++v) {
      float* p = acc + i * ldacc + v * kFloatLanes;
      if (kPartial && v == kVecs - 1) {
        hn::BlendedStore(sum[i][v], last, d, p);
      } else {
        hn::StoreU(sum[i][v], d, p);
      }
    }
  }
}

template <int kRows>
void accumulate_cols(Weights w, const float* b, int64_t ldb, int64_t steps, float* acc, int64_t ldacc,
                     int64_t cols) {
  for (int64_t c = 0; c < cols;) {
    const int64_t vecs = ceil_div(cols - c, kFloatLanes);
    const int64_t take = vecs == 4 ? 2 : std::min(vecs, kVecTile);
    const int64_t n = std::min(take * kFloatLanes, cols - c);
    const bool partial = n % kFloatLanes != 0;
    auto run = [&]<int kVecs>() {
      if (partial) {
        accumulate_tile<kRows, kVecs, true>(w, b + c, ldb, steps, acc + c, ldacc, n);
      } else {
        accumulate_tile<kRows, kVecs, false>(w, b + c, ldb, steps, acc + c, ldacc, n);
      }
    };
    if (take == 1) run.template operator()<1>();
    if (take == 2) run.template operator()<2>();
    if (take == 3) run.template operator()<3>();
    c += n;
  }
}

// acc[i][c] = fma over s ascending of w(i, s) * b[s][c], continuing acc, for `rows` <= kRowTile output rows.
inline void accumulate_rows(Weights w, int64_t rows, const float* b, int64_t ldb, int64_t steps, float* acc,
                            int64_t ldacc, int64_t cols) {
  if (steps == 0) return;
  int64_t i = 0;
  auto next = [&]<int kRows>() {
    accumulate_cols<kRows>({w.data + i * w.row, w.row, w.step}, b, ldb, steps, acc + i * ldacc, ldacc, cols);
    i += kRows;
  };
  if (rows - i >= 8) next.template operator()<8>();
  if (rows - i >= 4) next.template operator()<4>();
  if (rows - i >= 2) next.template operator()<2>();
  if (rows - i >= 1) next.template operator()<1>();
}

}  // namespace contender::cpu
