// What the check of registers in flight knows of a program before it runs.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "exec/program.h"

namespace ptxsim::check {

enum class InstrKind : uint8_t {
  kOther,
  kMove,
  kWgmma,
  kWgmmaFence,
  kJump
};  // kJump: never goes on behind itself

struct RegisterFacts {
  std::vector<InstrKind> kind;                                   // per instruction
  std::unordered_map<uint32_t, std::vector<uint32_t>> jumps_to;  // pc -> branches that go there
  // Of a wgmma, for accumulators and for A: 0 not looked at, 1 fenced, else 2 + pc of the write that no fence
  // follows.
  mutable std::unique_ptr<std::atomic<uint32_t>[]> unfenced;

  explicit RegisterFacts(const Program& p);
};

// Kept per program. Empty where the program has no wgmma.
std::shared_ptr<const RegisterFacts> register_facts(const Program& p);

// An instruction that writes one of `rows` and reaches the wgmma at pc without a wgmma.fence behind it; -1:
// none. Copies (mov) are looked through, because compilers put them between the fence and the wgmma for tied
// operands.
int64_t unfenced_write(const Program& p, const RegisterFacts& facts, uint32_t pc, const uint32_t* rows,
                       int count);

}  // namespace ptxsim::check
