// What is no arithmetic and no memory: nanosleep, setmaxnreg, and calls into the system (vprintf,
// __assertfail). Source: PTX ISA, sections 9.7.12 and 9.7.19; CUDA C++ Programming Guide, "Formatted output".
#include <fmt/format.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string>

#include "check/checker.h"
#include "exec/decoder.h"
#include "exec/warp.h"
#include "exec/worker.h"
#include "sim.h"

namespace ptxsim {

using ptx::Instruction;
using ptx::OperandKind;
using ptx::Space;
using ptx::Type;

namespace {

void run_nanosleep(Warp& w, const Instr& i) {
  if (active(w, i)) yield(w);
}

// --- setmaxnreg: a warpgroup gives registers back to the block's pool or takes them ---
struct RegisterChange {
  int count;
  bool increase;
};

void run_setmaxnreg(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const RegisterChange*>(i.ext);
  if (!active(w, i)) return;
  if (!gather_lanes(w, i, w.live, "setmaxnreg")) return;
  Cta& cta = *w.cta;
  const int launched = cta.registers_at_launch;
  if (op.count < 24 || op.count > 256 || op.count % 8)
    fail(w, i, -1, ErrorCode::kIllegalInstruction,
         fmt::format("[setmaxnreg] {} registers: a multiple of 8 from 24 to 256", op.count));
  if (w.max_registers == 0) w.max_registers = launched;
  if (op.increase ? op.count < w.max_registers : op.count > w.max_registers)
    fail(w, i, -1, ErrorCode::kIllegalInstruction,
         fmt::format("[setmaxnreg] {} to {} registers from {}", op.increase ? "increase" : "decrease",
                     op.count, w.max_registers));
  // The pool is what the launch gave: registers per thread times warps.
  int used = 0;
  for (const Warp& other : cta.warps)
    if (&other != &w) used += other.live ? (other.max_registers ? other.max_registers : launched) : 0;
  const int budget = launched * static_cast<int>(cta.warps.size());
  if (used + op.count > budget) {
    // Blocks until others have given enough back.
    park(
        w, i, true,
        [](Warp& waiting, const Split& s) {
          int sum = 0;
          for (const Warp& other : waiting.cta->warps)
            if (&other != &waiting)
              sum += other.live
                         ? (other.max_registers ? other.max_registers : waiting.cta->registers_at_launch)
                         : 0;
          return sum + static_cast<int>(s.wait[0]) <=
                 waiting.cta->registers_at_launch * static_cast<int>(waiting.cta->warps.size());
        },
        static_cast<uint64_t>(op.count), 0, "setmaxnreg.inc (the block's registers are used up)");
    return;
  }
  w.max_registers = op.count;
  note_event(w);
}

// --- vprintf ---
std::string text_at(Warp& w, const Instr& i, int lane, uint64_t at) {
  std::string text;
  for (; text.size() < 1024; ++at) {
    const char c = static_cast<char>(*resolve_range(w, i, lane, at, 1, 1));
    if (!c) break;
    text += c;
  }
  return text;
}

// Arguments lie in the buffer at their natural alignment, as varargs promote them.
// *count: the arguments used, which is what printf of a kernel returns.
std::string format_line(Warp& w, const Instr& i, int lane, uint64_t format_at, uint64_t buffer_at,
                        int* count) {
  std::string format, out;
  for (uint64_t a = format_at; format.size() < 4096; ++a) {
    const char c = static_cast<char>(*resolve_range(w, i, lane, a, 1, 1));
    if (!c) break;
    format += c;
  }
  uint64_t at = 0;
  auto next = [&](size_t bytes, void* value) {
    at = (at + bytes - 1) / bytes * bytes;
    std::memcpy(value, resolve_range(w, i, lane, buffer_at + at, bytes, 1), bytes);
    at += bytes;
    ++*count;
  };
  auto integer = [&](size_t bytes) -> long long {
    if (bytes == 8) {
      int64_t v;
      next(8, &v);
      return v;
    }
    int32_t v;
    next(4, &v);
    return v;
  };
  for (size_t k = 0; k < format.size(); ++k) {
    if (format[k] != '%') {
      out += format[k];
      continue;
    }
    std::string spec = "%";
    size_t bytes = 4;
    for (++k; k < format.size() && std::strchr("-+ #0123456789.*lhzjt", format[k]); ++k) {
      if (format[k] == 'l' || format[k] == 'z' || format[k] == 'j' || format[k] == 't')
        bytes = 8;
      else if (format[k] == 'h')
        continue;
      else if (format[k] == '*')
        spec += fmt::format("{}", integer(4));
      else
        spec += format[k];
    }
    if (k >= format.size()) break;
    const char c = format[k];
    char text[512] = "";
    if (c == '%') {
      out += '%';
      continue;
    }
    if (std::strchr("diouxXc", c)) {
      const long long v = integer(bytes);
      if (c == 'c')
        std::snprintf(text, sizeof text, (spec + c).c_str(), static_cast<int>(v));
      else if (c == 'd' || c == 'i')
        std::snprintf(text, sizeof text, (spec + "ll" + c).c_str(), v);
      else
        std::snprintf(text, sizeof text, (spec + "ll" + c).c_str(),
                      bytes == 4 ? static_cast<unsigned long long>(static_cast<uint32_t>(v))
                                 : static_cast<unsigned long long>(v));
    } else if (std::strchr("eEfFgGaA", c)) {
      double v;
      next(8, &v);
      std::snprintf(text, sizeof text, (spec + c).c_str(), v);
    } else if (c == 'p') {
      std::snprintf(text, sizeof text, "%#llx", integer(8));
    } else if (c == 's') {
      uint64_t a;
      next(8, &a);
      std::snprintf(text, sizeof text, (spec + c).c_str(), text_at(w, i, lane, a).c_str());
    } else {
      out += spec + c;  // as the runtime does: printed as it is
    }
    out += text;
  }
  return out;
}

struct SystemCall {
  std::vector<uint64_t> arguments;  // local offsets of the .param variables
  uint64_t result = 0;
  bool has_result = false;
};

template <class T>
T argument(Warp& w, const Instr& i, const SystemCall& call, size_t k, int lane) {
  T v;
  std::memcpy(&v, resolve_range(w, i, lane, kLocalTag | call.arguments.at(k), sizeof v, 1), sizeof v);
  return v;
}

void give_result(Warp& w, const Instr& i, const SystemCall& call, int lane, const void* value, size_t bytes) {
  if (call.has_result)
    std::memcpy(resolve_range(w, i, lane, kLocalTag | call.result, bytes, 1), value, bytes);
}

void run_vprintf(Warp& w, const Instr& i) {
  const auto& call = *static_cast<const SystemCall*>(i.ext);
  for (uint32_t m = active(w, i); m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    int n = 0;
    const std::string line = format_line(w, i, lane, argument<uint64_t>(w, i, call, 0, lane),
                                         argument<uint64_t>(w, i, call, 1, lane), &n);
    std::fwrite(line.data(), 1, line.size(), stdout);
    give_result(w, i, call, lane, &n, sizeof n);
  }
}

void run_assertfail(Warp& w, const Instr& i) {
  const auto& call = *static_cast<const SystemCall*>(i.ext);
  const uint32_t mask = active(w, i);
  if (!mask) return;
  const int lane = __builtin_ctz(mask);
  auto string = [&](size_t k) { return text_at(w, i, lane, argument<uint64_t>(w, i, call, k, lane)); };
  fail(w, i, lane, ErrorCode::kAssert,
       fmt::format("[assert] {}:{}: {}: Assertion `{}` failed.", string(1),
                   argument<uint32_t>(w, i, call, 2, lane), string(3), string(0)));
}

bool decode_call(Decoder& d, const Instruction& in) {
  const ptx::Operand* target = nullptr;
  SystemCall call;
  for (const ptx::Operand& op : in.operands) {
    if (op.kind == OperandKind::kFunction && !target) {
      target = &op;
    } else if (op.kind == OperandKind::kVector) {
      for (const ptx::Operand& e : op.elements) {
        if (e.kind != OperandKind::kVariable || e.is_global) continue;
        const uint64_t at = d.place(e).offset + e.integer;
        if (target)
          call.arguments.push_back(at);
        else
          call.result = at, call.has_result = true;
      }
    }
  }
  if (!target) return false;
  if (target->name == "vprintf" && call.arguments.size() == 2) {
    d.emit({.run = run_vprintf, .ext = d.program().keep(call)});
    return true;
  }
  if (target->name == "__assertfail" && call.arguments.size() >= 4) {
    d.emit({.run = run_assertfail, .ext = d.program().keep(call)});
    return true;
  }
  return false;
}

}  // namespace

bool decode_system(Decoder& d, const Instruction& in) {
  const std::string_view m = in.mnemonic();
  if (m == "nanosleep") {
    d.emit({.run = run_nanosleep});
    return true;
  }
  if (m == "setmaxnreg") {
    d.emit({.run = run_setmaxnreg,
            .ext = d.program().keep(
                RegisterChange{static_cast<int>(d.integer(in.operands.at(0))), in.has("inc")})});
    return true;
  }
  return m == "call" && decode_call(d, in);
}

}  // namespace ptxsim
