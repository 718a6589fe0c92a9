// Attention: causal whole sequences of MLA (expanded and absorbed) and GQA, forward and backward; decode over
// a paged cache.
#include <algorithm>
#include <cmath>

#include "bench/cuda/gpu_bench.h"
#include "cuda/ops.h"
#include "ops/attention.h"

namespace contender::bench {
namespace {

enum class Form { kExpanded, kAbsorbed, kGqa };

struct Shape {
  Form form;
  int64_t seqs, q_len, kv_len, heads, kv_heads, d_qk, d_v;
  std::string text() const {
    const char* name = form == Form::kGqa ? "gqa" : form == Form::kAbsorbed ? "mla_absorbed" : "mla";
    return fmt::format("{}_{}x{}of{}_h{}k{}_{}v{}", name, seqs, q_len, kv_len, heads, kv_heads, d_qk, d_v);
  }
  AttentionShape shape() const {
    const bool absorbed = form == Form::kAbsorbed;  // the value is the first part of the key
    const int64_t row = absorbed ? d_qk : kv_heads * (d_qk + d_v);
    return {.num_heads = heads,
            .num_kv_heads = kv_heads,
            .d_qk = d_qk,
            .d_v = d_v,
            .page_size = 64,
            .row_width = row,
            .k_stride = absorbed ? d_qk : d_qk + d_v,
            .v_offset = absorbed ? 0 : d_qk,
            .v_stride = absorbed ? d_qk : d_qk + d_v,
            .scale = 1 / std::sqrt(static_cast<float>(d_qk))};
  }
};

const std::vector<Shape> kTraining = {{Form::kExpanded, 1, 8192, 8192, 128, 128, 192, 128},
                                      {Form::kGqa, 1, 8192, 8192, 64, 8, 128, 128},
                                      {Form::kGqa, 4, 2048, 2048, 28, 4, 128, 128},
                                      {Form::kAbsorbed, 4, 2048, 2048, 16, 1, 576, 512},
                                      {Form::kAbsorbed, 1, 4096, 4096, 128, 1, 576, 512}};
const std::vector<Shape> kDecode = {{Form::kAbsorbed, 128, 1, 4096, 128, 1, 576, 512},
                                    {Form::kAbsorbed, 128, 1, 4096, 16, 1, 576, 512},
                                    {Form::kGqa, 128, 1, 4096, 28, 4, 128, 128},
                                    {Form::kGqa, 1, 1, 65536, 28, 4, 128, 128}};
constexpr Shape kSmallTraining = {Form::kGqa, 2, 48, 48, 4, 2, 64, 64},
                kSmallDecode = {Form::kAbsorbed, 3, 1, 70, 16, 1, 96, 64};

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// Queries and a cache whose pages lie in reverse order.
struct Operands {
  Shape s;
  AttentionShape shape;
  int64_t pages;  // of a sequence
  std::vector<AttentionSeq> list;
  std::vector<int32_t> ids;
  DeviceData q, kv, o, lse, seqs, page_ids;

  explicit Operands(const Shape& s)
      : s(s),
        shape(s.shape()),
        pages(ceil_div(s.kv_len, shape.page_size)),
        list(sequences()),
        ids(reversed_pages()),
        q(DeviceData::random(kActivation, s.seqs * s.q_len, s.heads * s.d_qk, 1)),
        kv(DeviceData::random(kActivation, s.seqs * pages * shape.page_size, shape.row_width, 2)),
        o(kActivation, s.seqs * s.q_len, s.heads * s.d_v),
        lse(DType::kF32, s.seqs * s.q_len, s.heads),
        seqs(DeviceData::of(list)),
        page_ids(DeviceData::of(ids)) {}
  std::vector<AttentionSeq> sequences() const {
    std::vector<AttentionSeq> all;
    for (int64_t i = 0; i < s.seqs; ++i) {
      all.push_back({narrow<int32_t>(i * s.q_len), narrow<int32_t>(s.q_len), narrow<int32_t>(s.kv_len),
                     narrow<int32_t>(i * pages)});
    }
    return all;
  }
  std::vector<int32_t> reversed_pages() const {
    std::vector<int32_t> all;
    for (int64_t i = 0; i < s.seqs * pages; ++i) all.push_back(narrow<int32_t>(s.seqs * pages - 1 - i));
    return all;
  }
  AttentionArgs args() const {
    return {.shape = shape,
            .q = q.tensor(),
            .kv = kv.tensor(),
            .seqs = seqs.as<AttentionSeq>(),
            .num_seqs = s.seqs,
            .page_ids = page_ids.as<int32_t>(),
            .o = o.tensor(),
            .lse = lse.tensor()};
  }
  // Cache row of a position of sequence i.
  int64_t cache_row(int64_t i, int64_t position) const {
    return ids[static_cast<size_t>(i * pages + position / shape.page_size)] * shape.page_size +
           position % shape.page_size;
  }
  int64_t kv_head(int64_t head) const { return head / (s.heads / s.kv_heads); }
  std::vector<double> key(int64_t i, int64_t position, int64_t head) const {
    return kv.block(cache_row(i, position), 1, kv_head(head) * shape.k_stride, s.d_qk);
  }
  std::vector<double> value(int64_t i, int64_t position, int64_t head) const {
    return kv.block(cache_row(i, position), 1, shape.v_offset + kv_head(head) * shape.v_stride, s.d_v);
  }
  std::vector<double> query(int64_t t, int64_t head) const { return q.block(t, 1, head * s.d_qk, s.d_qk); }
};

// One (query, head) in double. Keys and values come page by page: single rows would take long.
struct Reference {
  std::vector<double> p, o;
  std::vector<std::vector<double>> keys, values;
  double lse = 0;
  Reference(const Operands& a, int64_t i, int64_t query, int64_t head) : o(static_cast<size_t>(a.s.d_v)) {
    const int64_t visible = a.s.kv_len - a.s.q_len + query + 1, page = a.shape.page_size;
    const std::vector<double> q = a.query(i * a.s.q_len + query, head);
    const auto rows = [&](std::vector<std::vector<double>>& out, int64_t first, int64_t column,
                          int64_t width) {
      const int64_t count = std::min(page, visible - first);
      const std::vector<double> all = a.kv.block(a.cache_row(i, first), count, column, width);
      for (int64_t j = 0; j < count; ++j) out.emplace_back(&all[j * width], &all[j * width] + width);
    };
    for (int64_t first = 0; first < visible; first += page) {
      rows(keys, first, a.kv_head(head) * a.shape.k_stride, a.s.d_qk);
      rows(values, first, a.shape.v_offset + a.kv_head(head) * a.shape.v_stride, a.s.d_v);
    }
    for (const std::vector<double>& k : keys) p.push_back(dot(q, k) * a.shape.scale);
    const double max = *std::max_element(p.begin(), p.end());
    double sum = 0;
    for (double& x : p) sum += x = std::exp(x - max);
    lse = max + std::log(sum);
    for (size_t j = 0; j < p.size(); ++j) {
      p[j] /= sum;
      for (size_t c = 0; c < o.size(); ++c) o[c] += p[j] * values[j][c];
    }
  }
};

// Probabilities are rounded to BF16 before they meet the values, which are below 1.
constexpr double kTolerance = 1.0 / 128;

void check_forward(Check& check, const Operands& a) {
  for (const int64_t i : samples(a.s.seqs, 2)) {
    for (const int64_t query : samples(a.s.q_len, 3)) {
      for (const int64_t head : samples(a.s.heads, 2)) {
        const Reference ref(a, i, query, head);
        const std::vector<double> got = a.o.block(i * a.s.q_len + query, 1, head * a.s.d_v, a.s.d_v);
        for (size_t c = 0; c < got.size(); ++c) check.near(got[c], ref.o[c], kTolerance);
        check.near(a.lse.at(i * a.s.q_len + query, head), ref.lse, 1e-4);
      }
    }
  }
}

void attention(const Shape& s) {
  const Operands a(s);
  const Scratch scratch(attention_workspace_bytes(a.shape, s.q_len, s.kv_len));
  measure({.cost = attention_cost(a.shape, a.list.data(), s.seqs, kActivation),
           .call = [&] { cuda::attention(scratch.exec(), a.args()); },
           .check = [&](Check& check) { check_forward(check, a); }});
}

struct Gradients {
  const Operands& a;
  DeviceData dout, dq, dkv;
  explicit Gradients(const Operands& a)
      : a(a),
        dout(DeviceData::random(kActivation, a.q.tensor().rows, a.s.heads * a.s.d_v, 3)),
        dq(kActivation, a.q.tensor().rows, a.s.heads * a.s.d_qk),
        dkv(kActivation, a.kv.tensor().rows, a.shape.row_width) {}
  AttentionBwdArgs args() const {
    return {.shape = a.shape,
            .q = a.q.tensor(),
            .kv = a.kv.tensor(),
            .seqs = a.seqs.as<AttentionSeq>(),
            .num_seqs = a.s.seqs,
            .page_ids = a.page_ids.as<int32_t>(),
            .o = a.o.tensor(),
            .lse = a.lse.tensor(),
            .dout = dout.tensor(),
            .dq = dq.tensor(),
            .dkv = dkv.tensor(),
            .head_slices = a.s.kv_heads == 1 ? 4 : 1};
  }
  void check_dq(Check& check, int64_t query, int64_t head) const {
    const Reference ref(a, 0, query, head);
    const std::vector<double> g = dout.block(query, 1, head * a.s.d_v, a.s.d_v),
                              got = dq.block(query, 1, head * a.s.d_qk, a.s.d_qk);
    const double delta = dot(g, ref.o);
    std::vector<double> want(got.size());
    double size = 0;
    for (size_t j = 0; j < ref.p.size(); ++j) {
      const double dp = dot(g, ref.values[j]), ds = ref.p[j] * (dp - delta) * a.shape.scale;
      size += ref.p[j] * (std::abs(dp) + std::abs(delta)) * a.shape.scale;
      for (size_t c = 0; c < want.size(); ++c) want[c] += ds * ref.keys[j][c];
    }
    for (size_t c = 0; c < want.size(); ++c)
      check.near(got[c], want[c], kTolerance * (std::abs(want[c]) + size));
  }
  // Of a key near the end, which few queries see.
  void check_dkv(Check& check, int64_t position, int64_t kv_head) const {
    std::vector<double> dk(static_cast<size_t>(a.s.d_qk)), dv(static_cast<size_t>(a.s.d_v));
    const int64_t group = a.s.heads / a.s.kv_heads;
    double size = 0;
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for (int64_t t = position; t < a.s.q_len; ++t) {
        const std::vector<double> q = a.query(t, head), g = dout.block(t, 1, head * a.s.d_v, a.s.d_v);
        const double delta = dot(g, a.o.block(t, 1, head * a.s.d_v, a.s.d_v)),
                     dp = dot(g, a.value(0, position, head)),
                     p = std::exp(dot(q, a.key(0, position, head)) * a.shape.scale - a.lse.at(t, head)),
                     ds = p * (dp - delta) * a.shape.scale;
        for (size_t c = 0; c < dk.size(); ++c) dk[c] += ds * q[c];
        for (size_t c = 0; c < dv.size(); ++c) dv[c] += p * g[c];
        size += p + p * (std::abs(dp) + std::abs(delta)) * a.shape.scale;
      }
    }
    const std::vector<double> got = dkv.row(a.cache_row(0, position));
    const int64_t k0 = kv_head * a.shape.k_stride, v0 = a.shape.v_offset + kv_head * a.shape.v_stride;
    std::vector<double> want(got.size());
    for (size_t c = 0; c < dk.size(); ++c) want[k0 + c] += dk[c];
    for (size_t c = 0; c < dv.size(); ++c) want[v0 + c] += dv[c];
    for (const int64_t begin : {k0, v0}) {
      for (int64_t c = begin; c < begin + std::min(a.s.d_qk, a.s.d_v); ++c)
        check.near(got[c], want[c], kTolerance * (std::abs(want[c]) + size));
    }
  }
};

void attention_bwd(const Shape& s) {
  const Operands a(s);
  const Gradients g(a);
  const AttentionBwdArgs args = g.args();
  const Scratch forward(attention_workspace_bytes(a.shape, s.q_len, s.kv_len)),
      scratch(attention_bwd_workspace_bytes(a.shape, s.kv_len, args.head_slices));
  cuda::attention(forward.exec(), a.args());
  measure({.cost = attention_bwd_cost(a.shape, a.list.data(), s.seqs, kActivation),
           .call = [&] { cuda::attention_bwd(scratch.exec(), args); },
           .check =
               [&](Check& check) {
                 for (const int64_t query : samples(s.q_len, 3)) g.check_dq(check, query, query % s.heads);
                 for (const int64_t back : {1, 7, 33}) g.check_dkv(check, s.q_len - back, back % s.kv_heads);
               }});
}

const Family family("attention", [] {
  rows("attention", kTraining, {kSmallTraining}, attention);
  rows("attention_bwd", kTraining, {kSmallTraining}, attention_bwd);
  rows("attention_decode", kDecode, {kSmallDecode}, attention);
});

}  // namespace
}  // namespace contender::bench
