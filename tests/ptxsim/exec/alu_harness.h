// One PTX instruction, decoded by the families under test and run on a warp of its own, against a function of
// one lane. Registers: %p0-7 (predicates), %h0-7 (16 bits), %r0-7 (32), %d0-7 (64), %b0-3 (8, in 16-bit
// rows), %q0-3 (128).
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "exec/decoder.h"
#include "exec/warp.h"
#include "ptx/module.h"

namespace ptxsim::testing {

using Bits = std::array<uint64_t, 4>;

// Rows one after the other, constants behind them.
class AluDecoder final : public Decoder {
 public:
  explicit AluDecoder(const ptx::Function& function) : function_(function) {
    for (const ptx::Register& r : function.registers) offsets_.push_back(take(bytes_of(r.type)));
  }

  uint32_t row(const ptx::Operand& op, ptx::Type type) override {
    switch (op.kind) {
      case ptx::OperandKind::kRegister:
        return offsets_[op.reg];
      case ptx::OperandKind::kSink:
        return scratch(type);
      case ptx::OperandKind::kInteger:
        return constant(type, op.integer);
      case ptx::OperandKind::kFloat: {
        const double value = op.is_single ? std::bit_cast<float>(static_cast<uint32_t>(op.integer)) : op.real;
        return constant(type, type == ptx::Type::kF64 ? std::bit_cast<uint64_t>(value)
                                                      : std::bit_cast<uint32_t>(static_cast<float>(value)));
      }
      default:
        throw ptx::ParseError(0, "operand outside the harness");
    }
  }
  uint32_t predicate(const ptx::Operand& op, uint32_t* flip) override {
    *flip = op.negated ? ~0u : 0;
    return op.kind == ptx::OperandKind::kSink ? scratch(ptx::Type::kPred) : offsets_[op.reg];
  }
  ptx::Type register_type(const ptx::Operand& op) const override {
    return op.kind == ptx::OperandKind::kRegister ? function_.registers[op.reg].type : ptx::Type::kNone;
  }
  int64_t integer(const ptx::Operand& op) override { return static_cast<int64_t>(op.integer); }
  bool is_integer(const ptx::Operand& op) const override { return op.kind == ptx::OperandKind::kInteger; }
  Address address(const ptx::Operand&) override { throw ptx::ParseError(0, "no addresses here"); }
  void branch_target(int, const ptx::Operand&) override {}
  void branch_table(const ptx::Operand&, std::vector<uint32_t>*) override {}
  Place place(const ptx::Operand&) override { return {}; }
  int emit(Instr instr) override {
    if (guard_ >= 0) {
      instr.guard = offsets_[guard_];
      instr.guard_flip = guard_negated_ ? ~0u : 0;
    }
    program_.code.push_back(instr);
    return static_cast<int>(program_.code.size()) - 1;
  }
  Program& program() override { return program_; }
  uint32_t scratch(ptx::Type type) override { return take(bytes_of(type)); }
  void unknown(const ptx::Instruction& in) override { unknown_ = std::string(in.opcode); }

  void decode(const ptx::Instruction& in) {
    guard_ = in.guard;
    guard_negated_ = in.guard_negated;
    if (!decode_integer(*this, in) && !decode_float(*this, in) && !decode_compare(*this, in) &&
        !decode_half(*this, in) && !decode_convert(*this, in))
      unknown(in);
  }
  uint32_t offset(int reg) const { return offsets_[reg]; }
  uint32_t end() const { return next_; }
  const std::string& unknown_opcode() const { return unknown_; }

 private:
  static uint32_t bytes_of(ptx::Type type) {
    return type == ptx::Type::kPred ? 4 : std::max(static_cast<uint32_t>(ptx::size_of(type)), 2u) * kWarpSize;
  }
  uint32_t take(uint32_t bytes) {
    const uint32_t at = next_;
    next_ += (bytes + 63) / 64 * 64;
    return at;
  }
  uint32_t constant(ptx::Type type, uint64_t value) {
    const uint32_t at = take(bytes_of(type));
    program_.constants.push_back({at, bytes_of(type) / kWarpSize, value});
    return at;
  }

  const ptx::Function& function_;
  Program program_;
  std::vector<uint32_t> offsets_;
  uint32_t next_ = 64;  // behind the row that is all ones
  int guard_ = -1;
  bool guard_negated_ = false;
  std::string unknown_;
};

// Instructions of one line of text, and a warp to run them on.
class AluMachine {
 public:
  explicit AluMachine(const std::string& text) {
    module_ = ptx::parse_module(
        ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k()\n{\n.reg .pred %p<8>;\n.reg "
        ".b16 %h<8>;\n"
        ".reg .b32 %r<8>;\n.reg .b64 %d<8>;\n.reg .b8 %b<4>;\n.reg .b128 %q<4>;\n" +
        text + "\nret;\n}\n");
    ptx::Function& function = module_->functions.at(0);
    ptx::parse_body(*module_, function);
    decoder_ = std::make_unique<AluDecoder>(function);
    for (size_t k = 0; k + 1 < function.body.size(); ++k) decoder_->decode(function.body[k]);
    for (size_t k = 0; k < function.registers.size(); ++k)
      named_[function.registers[k].name] = static_cast<int>(k);
    storage_.resize(decoder_->end() + 64);
    auto at = reinterpret_cast<uintptr_t>(storage_.data());
    warp_.regs = storage_.data() + (64 - at % 64) % 64;
    predicate_row(warp_, kTrueRow) = kAllLanes;
    for (const ConstantRow& c : decoder_->program().constants)
      for (int l = 0; l < kWarpSize; ++l) std::memcpy(warp_.regs + c.offset + l * c.width, &c.value, c.width);
  }

  const std::string& unknown() const { return decoder_->unknown_opcode(); }
  void run(uint32_t mask) {
    warp_.mask = mask;
    for (const Instr& i : decoder_->program().code) i.run(warp_, i);
  }
  uint32_t& predicate(const std::string& name) { return predicate_row(warp_, offset(name)); }
  template <class T>
  T* lanes(const std::string& name) {
    return row<T>(warp_, offset(name));
  }
  // Bits of one lane; predicates are 0 or 1.
  uint64_t get(const std::string& name, int lane) {
    if (name[1] == 'p') return (predicate(name) >> lane) & 1;
    uint64_t value = 0;
    std::memcpy(&value, warp_.regs + offset(name) + lane * bytes(name), bytes(name));
    return value;
  }
  void set(const std::string& name, int lane, uint64_t value) {
    if (name[1] == 'p') {
      predicate(name) = (predicate(name) & ~(1u << lane)) | static_cast<uint32_t>(value & 1) << lane;
    } else {
      std::memcpy(warp_.regs + offset(name) + lane * bytes(name), &value, bytes(name));
    }
  }
  Warp& warp() { return warp_; }
  static size_t bytes(const std::string& name) { return name[1] == 'h' ? 2 : name[1] == 'r' ? 4 : 8; }

 private:
  uint32_t offset(const std::string& name) { return decoder_->offset(named_.at(name)); }

  std::unique_ptr<ptx::Module> module_;
  std::unique_ptr<AluDecoder> decoder_;
  std::map<std::string, int> named_;
  std::vector<std::byte> storage_;
  Warp warp_;
};

// Bits that provoke: edges of integers and of the floats of this width, small integers, floats near 1,
// anything.
class Provoking {
 public:
  uint64_t next(size_t bytes) {
    const uint64_t any = random_();
    switch (any % 8) {
      case 0:
        return uint64_t{any >> 8 & 1} - (any >> 9 & 1);
      case 1:
        return (any >> 8) % 70;
      case 2:
        return edge(bytes, any >> 8);
      case 3:
        return random_();
      case 4:
        return random_() >> (any >> 8) % (8 * bytes);
      default:
        return near_one(bytes, any >> 8);
    }
  }

 private:
  static uint64_t edge(size_t bytes, uint64_t any) {
    const int mantissa = bytes == 2 ? 10 : bytes == 4 ? 23 : 52;
    const uint64_t sign = uint64_t{1} << (8 * bytes - 1);
    const uint64_t one_exponent = uint64_t{1} << mantissa;  // smallest normal
    const uint64_t infinity = (sign - 1) >> mantissa << mantissa;
    const uint64_t values[] = {0,
                               1,
                               one_exponent - 1,
                               one_exponent,
                               infinity - 1,
                               infinity,
                               infinity + 1,
                               sign - 1,
                               one_exponent / 2,
                               one_exponent + 1};
    return values[any % std::size(values)] | ((any >> 8) & 1 ? sign : 0);
  }
  uint64_t near_one(size_t bytes, uint64_t any) {
    const int mantissa = bytes == 2 ? 10 : bytes == 4 ? 23 : 52;
    const uint64_t bias = bytes == 2 ? 15 : bytes == 4 ? 127 : 1023;
    const uint64_t exponent = bias + any % 9 - 4;
    const uint64_t fraction =
        (any >> 8) & 1 ? random_() : random_() & (random_() & (random_() << (mantissa - 4)));
    return (fraction & ((uint64_t{1} << mantissa) - 1)) | exponent << mantissa |
           (any >> 9 & 1) << (8 * bytes - 1);
  }
  std::mt19937_64 random_{20};
};

using Reference = std::function<uint64_t(const Bits& x)>;
using Matches = std::function<bool(uint64_t got, uint64_t want)>;

struct CheckOptions {
  Matches matches;                       // equal bits where empty
  std::function<void(Bits& x)> prepare;  // of the sources of one lane
};

inline std::string operand_name(char kind, int k) { return std::string("%") + kind + std::to_string(k); }

// `text` with operands "%<kind>0, %<kind>1, ...": kinds[0] is the destination, the rest the sources, as
// letters p h r d. Run with full and partial masks, without guard and under @!%p7; x[k] of the reference are
// the bits of source k.
inline void check_text(const std::string& text, const std::string& kinds, const Reference& reference,
                       const CheckOptions& options = {}) {
  static Provoking provoking;
  for (const char* guard : {"", "@!%p7 "}) {
    std::string guarded = guard + text;
    for (size_t at = guarded.find("; "); at != std::string::npos; at = guarded.find("; ", at + 1))
      guarded.insert(at + 2, guard);
    AluMachine m(guarded);
    ASSERT_EQ(m.unknown(), "") << text;
    for (int round = 0; round < 16; ++round) {
      const uint32_t mask = round % 4 == 3 ? static_cast<uint32_t>(provoking.next(4)) : kAllLanes;
      m.predicate("%p7") = round % 8 < 2 ? 0 : static_cast<uint32_t>(provoking.next(4));
      std::array<Bits, kWarpSize> x{};
      std::array<uint64_t, kWarpSize> before{};
      for (int l = 0; l < kWarpSize; ++l) {
        for (size_t k = 1; k < kinds.size(); ++k) {
          const std::string name = operand_name(kinds[k], static_cast<int>(k));
          const size_t bytes = kinds[k] == 'p' ? 4 : AluMachine::bytes(name);
          x[l][k - 1] =
              provoking.next(bytes) & (bytes == 8 ? ~uint64_t{0} : (uint64_t{1} << (8 * bytes)) - 1);
          if (kinds[k] == 'p') x[l][k - 1] &= 1;
        }
        if (options.prepare) options.prepare(x[l]);
        for (size_t k = 1; k < kinds.size(); ++k)
          m.set(operand_name(kinds[k], static_cast<int>(k)), l, x[l][k - 1]);
        m.set(operand_name(kinds[0], 0), l, provoking.next(8));
        before[l] = m.get(operand_name(kinds[0], 0), l);
      }
      const uint32_t runs = mask & (*guard ? ~m.predicate("%p7") : kAllLanes);
      m.run(mask);
      for (int l = 0; l < kWarpSize; ++l) {
        const uint64_t got = m.get(operand_name(kinds[0], 0), l);
        const bool ran = (runs >> l) & 1;
        uint64_t want = ran ? reference(x[l]) : before[l];
        if (kinds[0] != 'd') want &= kinds[0] == 'p' ? 1 : kinds[0] == 'h' ? 0xffff : 0xffffffff;
        const bool good = ran && options.matches ? options.matches(got, want) : got == want;
        ASSERT_TRUE(good) << guard << text << std::hex << ": lane " << l << (ran ? "" : " (not active)")
                          << " got " << got << " want " << want << " from " << x[l][0] << " " << x[l][1]
                          << " " << x[l][2] << " " << x[l][3];
      }
    }
  }
}

// The opcode with registers %<kind>k for its operands.
inline void check(const std::string& opcode, const std::string& kinds, const Reference& reference,
                  const CheckOptions& options = {}) {
  std::string text = opcode;
  for (size_t k = 0; k < kinds.size(); ++k)
    text += (k ? ", " : " ") + operand_name(kinds[k], static_cast<int>(k));
  check_text(text + ";", kinds, reference, options);
}

inline float f32(uint64_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits)); }
inline double f64(uint64_t bits) { return std::bit_cast<double>(bits); }
inline uint64_t bits(float x) { return std::bit_cast<uint32_t>(x); }
inline uint64_t bits(double x) { return std::bit_cast<uint64_t>(x); }

}  // namespace ptxsim::testing
