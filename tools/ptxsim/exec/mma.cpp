// mma.sync with dense operands. Source: PTX ISA 9.0, section 9.7.15.
#include "exec/mma.h"

#include <fmt/format.h>

#include <bit>
#include <charconv>
#include <cmath>

#include "config.h"
#include "exec/worker.h"
#include "numeric/float_formats.h"
#include "numeric/fragments.h"

namespace ptxsim {

using numeric::InputType;
using numeric::kPanelVectors;
using numeric::Panel;
using numeric::RawPanel;
using numeric::ResultType;
using ptx::Instruction;
using ptx::Operand;
using ptx::OperandKind;
using ptx::Type;

bool whole_warp(Warp& w, const Instr& i, const char* why) {
  if (!active(w, i)) return false;
  if (!gather_lanes(w, i, w.live, why)) return false;
  const uint32_t here = active(w, i);
  if (here == kAllLanes) return true;
  fail(w, i, __builtin_ctz(here), ErrorCode::kIllegalInstruction,
       fmt::format(
           "[divergence] {} needs all 32 lanes of the warp: lanes {:#010x} run it, {:#010x} have exited", why,
           here, kAllLanes & ~w.live));
}

std::optional<InputType> input_type(std::string_view word) {
  static constexpr std::pair<std::string_view, InputType> kTypes[] = {
      {"f16", InputType::kF16},   {"bf16", InputType::kBf16}, {"tf32", InputType::kTf32},
      {"e4m3", InputType::kE4m3}, {"e5m2", InputType::kE5m2}, {"s8", InputType::kS8},
      {"u8", InputType::kU8}};
  for (const auto& [name, type] : kTypes)
    if (name == word) return type;
  return std::nullopt;
}

MmaShape mma_shape(std::string_view word) {
  MmaShape s;
  const char* p = word.data();
  const char* end = p + word.size();
  for (const auto& [letter, value] : {std::pair{'m', &s.m}, {'n', &s.n}, {'k', &s.k}}) {
    if (p == end || *p != letter) return {};
    const auto [next, error] = std::from_chars(p + 1, end, *value);
    if (error != std::errc{}) return {};
    p = next;
  }
  return p == end ? s : MmaShape{};
}

bool operand_rows(Decoder& d, const Operand& op, Type type, int count, uint32_t* rows) {
  const bool listed = op.kind == OperandKind::kVector;
  if (listed ? static_cast<int>(op.elements.size()) != count : count != 1) return false;
  for (int k = 0; k < count; ++k) rows[k] = d.row(listed ? op.elements[k] : op, type);
  return true;
}

namespace {

struct MmaOp {
  MmaShape shape;
  InputType a_type{}, b_type{};
  ResultType result = ResultType::kF32;  // of C and D
  bool saturate = false;
  int a_count = 0, b_count = 0, c_count = 0;
  uint32_t a[8] = {}, b[4] = {}, c[4] = {}, d[4] = {};
};

template <class T>
void row_pointers(Warp& w, const uint32_t* offsets, int count, T** out) {
  for (int k = 0; k < count; ++k) out[k] = row<T>(w, offsets[k]);
}

// A and B as panels of words; the number of words along k.
int gather_operands(Warp& w, const MmaOp& op, RawPanel& a, RawPanel& b) {
  const uint32_t* rows[8];
  a = {};
  b = {};
  row_pointers(w, op.a, op.a_count, rows);
  numeric::gather_a(rows, op.a_count, a);
  row_pointers(w, op.b, op.b_count, rows);
  numeric::gather_b(rows, op.b_count, b);
  return 4 * op.b_count;
}

// The accumulator as d[column][row]: the 16 rows of A are the lanes of the arithmetic.
void gather_c(Warp& w, const MmaOp& op, float (*d)[kPanelVectors]) {
  if (op.result == ResultType::kF32) {
    const float* rows[4];
    row_pointers(w, op.c, 4, rows);
    numeric::gather_d_transposed(rows, d);
    return;
  }
  for (int r = 0; r < 2; ++r) {
    const uint32_t* c = row<uint32_t>(w, op.c[r]);
    for (int l = 0; l < kWarpSize; ++l) {
      for (int e = 0; e < 2; ++e) {
        const auto p = numeric::d_position_16(l, r, e);
        d[p.column][p.row] = numeric::f16_to_f32(static_cast<uint16_t>(c[l] >> 16 * e));
      }
    }
  }
}

void scatter_d(Warp& w, const MmaOp& op, const float (*d)[kPanelVectors]) {
  if (op.result == ResultType::kF32) {
    float* rows[4];
    row_pointers(w, op.d, 4, rows);
    numeric::scatter_d_transposed(d, rows);
    return;
  }
  for (int r = 0; r < 2; ++r) {
    uint32_t* out = row<uint32_t>(w, op.d[r]);
    for (int l = 0; l < kWarpSize; ++l) {
      const auto p = numeric::d_position_16(l, r, 0);
      out[l] = numeric::f32_to_f16(d[p.column][p.row]) | uint32_t{numeric::f32_to_f16(d[p.column + 1][p.row])}
                                                             << 16;
    }
  }
}

void profile(Warp& w, const Instr& i, const MmaShape& s) {
  profile_flops(w, i, 2ull * static_cast<uint64_t>(s.m * s.n) * static_cast<uint64_t>(s.k));
}

void run_float(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const MmaOp*>(i.ext);
  if (!whole_warp(w, i, "mma.sync")) return;
  RawPanel raw_a, raw_b;
  const int words = gather_operands(w, op, raw_a, raw_b);
  Panel a, b;
  const int depth = numeric::decode(op.a_type, raw_a, words, false, a);
  numeric::decode(op.b_type, raw_b, words, false, b);
  alignas(64) float d[8][kPanelVectors];
  gather_c(w, op, d);
  numeric::multiply_add(numeric::sum_model(op.a_type), config().accumulation, op.result, b, 8, a, depth, d);
  scatter_d(w, op, d);
  profile(w, i, op.shape);
}

// The elements of k % 4 in {first, first + 1}, in order.
void take_halves(const Panel& from, int depth, int first, Panel& to) {
  to.special = from.special;
  for (int k = 0; k < depth / 2; ++k) {
    const int source = k / 2 * 4 + k % 2 + first;
    std::copy(from.value[source], from.value[source] + kPanelVectors, to.value[k]);
    std::copy(from.exponent[source], from.exponent[source] + kPanelVectors, to.exponent[k]);
  }
}

// FP8: see kSumFp8Mma.
void run_fp8(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const MmaOp*>(i.ext);
  if (!whole_warp(w, i, "mma.sync")) return;
  RawPanel raw_a, raw_b;
  const int words = gather_operands(w, op, raw_a, raw_b);
  Panel a, b;
  const int depth = numeric::decode(op.a_type, raw_a, words, false, a);
  numeric::decode(op.b_type, raw_b, words, false, b);
  alignas(64) float sum[8][kPanelVectors] = {}, d[8][kPanelVectors];
  for (const int first : {0, 2}) {
    Panel half_a, half_b;
    take_halves(a, depth, first, half_a);
    take_halves(b, depth, first, half_b);
    numeric::multiply_add(numeric::kSumFp8Mma, config().accumulation, op.result, half_b, 8, half_a, depth / 2,
                          sum);
  }
  gather_c(w, op, d);
  for (int n = 0; n < 8; ++n) {
    for (int m = 0; m < kPanelVectors; ++m) {
      d[n][m] += sum[n][m];
      if (std::isnan(d[n][m])) d[n][m] = std::bit_cast<float>(numeric::kCanonicalNanF32);
    }
  }
  scatter_d(w, op, d);
  profile(w, i, op.shape);
}

void run_integer(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const MmaOp*>(i.ext);
  if (!whole_warp(w, i, "mma.sync")) return;
  RawPanel a, b;
  const int words = gather_operands(w, op, a, b);
  int32_t d[8][kPanelVectors] = {};
  // m8n8k16 has rows 0 to 7 only: registers 2 and 3 of the accumulator do not exist.
  for (int r = 0; r < op.c_count; ++r) {
    for (int l = 0; l < kWarpSize; ++l) {
      const auto p = numeric::d_position_32(l, r);
      d[p.column][p.row] = row<int32_t>(w, op.c[r])[l];
    }
  }
  numeric::multiply_add(op.b_type, b, 8, op.a_type, a, words, op.saturate, d);
  for (int r = 0; r < op.c_count; ++r) {
    for (int l = 0; l < kWarpSize; ++l) {
      const auto p = numeric::d_position_32(l, r);
      row<int32_t>(w, op.d[r])[l] = d[p.column][p.row];
    }
  }
  profile(w, i, op.shape);
}

// A chain of fused multiply-adds in the order of k.
void run_double(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const MmaOp*>(i.ext);
  if (!whole_warp(w, i, "mma.sync")) return;
  double a[16][16], b[16][8], d[16][8];
  for (int l = 0; l < kWarpSize; ++l) {
    for (int r = 0; r < op.a_count; ++r) {
      const auto p = numeric::a_position_f64(l, r);
      a[p.row][p.column] = row<double>(w, op.a[r])[l];
    }
    for (int r = 0; r < op.b_count; ++r) {
      const auto p = numeric::b_position_f64(l, r);
      b[p.row][p.column] = row<double>(w, op.b[r])[l];
    }
    for (int r = 0; r < op.c_count; ++r) {
      const auto p = numeric::d_position_32(l, r);
      d[p.row][p.column] = row<double>(w, op.c[r])[l];
    }
  }
  for (int m = 0; m < op.shape.m; ++m) {
    for (int n = 0; n < 8; ++n) {
      for (int k = 0; k < op.shape.k; ++k) d[m][n] = __builtin_fma(a[m][k], b[k][n], d[m][n]);
      if (std::isnan(d[m][n])) d[m][n] = std::bit_cast<double>(numeric::kCanonicalNanF64);
    }
  }
  for (int l = 0; l < kWarpSize; ++l) {
    for (int r = 0; r < op.c_count; ++r) {
      const auto p = numeric::d_position_32(l, r);
      row<double>(w, op.d[r])[l] = d[p.row][p.column];
    }
  }
  profile(w, i, op.shape);
}

// The handler of a combination of shape and types that the ISA has; null for others. Counts the registers.
Handler handler_of(MmaOp& op, std::string_view a, std::string_view b, std::string_view c,
                   std::string_view d) {
  const MmaShape& s = op.shape;
  if (s.n != 8 || c != d) return nullptr;
  op.c_count = s.m / 4;
  op.a_count = s.m * s.k / kWarpSize;  // of f64 elements
  op.b_count = s.k / 4;
  if (d == "f64" && a == "f64" && b == "f64") {
    const bool known = (s.m == 8 && s.k == 4) || (s.m == 16 && (s.k == 4 || s.k == 8 || s.k == 16));
    return known ? run_double : nullptr;
  }
  const auto a_type = input_type(a), b_type = input_type(b);
  if (!a_type || !b_type) return nullptr;
  op.a_type = *a_type;
  op.b_type = *b_type;
  const int bytes = numeric::input_bytes(op.a_type), k_bytes = s.k * bytes;
  op.a_count = s.m * k_bytes / (4 * kWarpSize);
  op.b_count = k_bytes / 16;
  if (is_integer(op.a_type) && is_integer(op.b_type)) {
    const bool known = (s.m == 8 && k_bytes == 16) || (s.m == 16 && (k_bytes == 16 || k_bytes == 32));
    return known && d == "s32" ? run_integer : nullptr;
  }
  if (s.m != 16 || (k_bytes != 16 && k_bytes != 32)) return nullptr;
  if (d == "f16") {
    op.result = ResultType::kF16;
    op.c_count = 2;
  } else if (d != "f32") {
    return nullptr;
  }
  const bool is_fp8 = bytes == 1 && !is_integer(op.a_type) && !is_integer(op.b_type);
  if (is_fp8) return run_fp8;
  if (a != b || bytes == 1) return nullptr;
  if (d == "f16" && op.a_type != InputType::kF16) return nullptr;
  return run_float;
}

}  // namespace

// mma.sync.aligned.shape.row.col{.satfinite}.dtype.atype.btype.ctype d, a, b, c;
bool decode_mma(Decoder& d, const Instruction& in) {
  if (decode_matrix_move(d, in)) return true;
  if (in.mnemonic() != "mma") return false;
  const size_t n = in.parts.size();
  MmaOp op;
  Handler run = nullptr;
  if (n >= 10 && in.parts[1] == "sync" && in.parts[2] == "aligned" && in.parts[4] == "row" &&
      in.parts[5] == "col" && in.operands.size() == 4) {
    op.shape = mma_shape(in.parts[3]);
    op.saturate = in.has("satfinite");
    run = handler_of(op, in.parts[n - 3], in.parts[n - 2], in.parts[n - 1], in.parts[n - 4]);
    if (n != 10u + (op.saturate ? 1 : 0)) run = nullptr;
  }
  const bool is_double = run == run_double;
  const Type input = is_double ? Type::kF64 : Type::kB32, result = is_double ? Type::kF64 : Type::kF32;
  if (!run || !operand_rows(d, in.operands[0], result, op.c_count, op.d) ||
      !operand_rows(d, in.operands[1], input, op.a_count, op.a) ||
      !operand_rows(d, in.operands[2], input, op.b_count, op.b) ||
      !operand_rows(d, in.operands[3], result, op.c_count, op.c)) {
    d.unknown(in);
    return true;
  }
  d.emit({.run = run, .ext = d.program().keep(op)});
  return true;
}

}  // namespace ptxsim
