#include "exec/mbarrier.h"

#include <fmt/format.h>

#include <cstring>

#include "check/checker.h"
#include "exec/decoder.h"
#include "exec/memory.h"

namespace ptxsim {

using ptx::Instruction;
using ptx::Operand;
using ptx::OperandKind;
using ptx::Space;
using ptx::Type;

namespace {

constexpr uint64_t kCheckMask = uint64_t{3} << 61;

// Two bits of the rest. Multiplying by 2^64 / golden ratio spreads every bit upwards; the addend is one with
// which the words that memory is usually filled with (zeros, ones, 0xcd...) fail.
uint64_t check_bits(uint64_t word) {
  const uint64_t mixed = ((word & ~kCheckMask) + 0x5eda92d9) * 0x9e3779b97f4a7c15;
  return (mixed >> 62) << 61;
}

std::string place_of(Warp& w, uint64_t address) {
  return fmt::format("mbarrier at shared offset {} of block {}", shared_offset(address),
                     shared_rank(address)) +
         (shared_rank(address) == w.cta->rank ? "" : " (another block of the cluster)");
}

uint64_t* word_of(Warp& w, const Instr& i, int lane, uint64_t address) {
  if ((address & kTagMask) != kSharedTag)
    fail(w, i, lane, ErrorCode::kInvalidAddressSpace,
         fmt::format("[mbarrier] address {:#x} is not in shared memory", address));
  return reinterpret_cast<uint64_t*>(resolve_range(w, i, lane, address, 8, 8));
}

Mbarrier read(Warp& w, const Instr& i, int lane, uint64_t address, uint64_t word) {
  const std::optional<Mbarrier> b = Mbarrier::decode(word);
  if (!b)
    fail(w, i, lane, ErrorCode::kLaunchFailure,
         fmt::format("[mbarrier] no mbarrier is there (never initialised, invalidated or overwritten): {}",
                     place_of(w, address)));
  return *b;
}

void check_own(Warp& w, const Instr& i, int lane, uint64_t address) {
  if ((address & kTagMask) == kSharedTag && shared_rank(address) != w.cta->rank)
    fail(w, i, lane, ErrorCode::kInvalidAddressSpace,
         fmt::format("[mbarrier] only arrive, expect_tx and complete_tx reach into another block: {}",
                     place_of(w, address)));
}

// --- the operations ---
struct Operation {
  enum class Kind : uint8_t {
    kInit,
    kInval,
    kArrive,
    kExpectTx,
    kCompleteTx,
    kTestWait,
    kTryWait
  } kind = Kind::kInit;
  AddressOperand address;
  uint32_t count_row = 0;  // count, tx-count, parity or state
  bool has_count = false;  // kArrive: `count` given
  bool expect_tx = false, drop = false, no_complete = false;
  bool has_state = false;    // kArrive: the state is wanted
  bool parity = false;       // waits: count_row is a parity and not a state
  bool synchronises = true;  // release or acquire; false: relaxed
};

void run_init(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const Operation*>(i.ext);
  uint64_t addresses[kWarpSize];
  tagged_addresses(w, op.address, addresses);
  const uint32_t* counts = row<uint32_t>(w, op.count_row);
  for (uint32_t m = active(w, i); m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    check_own(w, i, lane, addresses[lane]);
    uint64_t* word = word_of(w, i, lane, addresses[lane]);
    if (op.kind == Operation::Kind::kInval) {
      read(w, i, lane, addresses[lane], *word);
      *word = 0;
      continue;
    }
    const uint32_t count = counts[lane];
    if (count < 1 || count > kMbarrierMaxCount)
      fail(w, i, lane, ErrorCode::kIllegalInstruction,
           fmt::format("[mbarrier] init with count {}, not 1 to {}", count, kMbarrierMaxCount));
    *word = Mbarrier{.pending = count, .expected = count}.encode();
    if (w.check) w.check->mbarrier_init(w, i, lane, addresses[lane]);
  }
}

void run_arrive(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const Operation*>(i.ext);
  uint64_t addresses[kWarpSize];
  tagged_addresses(w, op.address, addresses);
  const uint32_t* counts = row<uint32_t>(w, op.count_row);
  for (uint32_t m = active(w, i); m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const uint64_t a = addresses[lane];
    if (op.has_state && (a & kTagMask) == kSharedTag && shared_rank(a) != w.cta->rank)
      fail(w, i, lane, ErrorCode::kIllegalInstruction,
           fmt::format("[mbarrier] arriving in another block gives no state: {}", place_of(w, a)));
    MbarrierChange change{
        .arrivals = op.has_count ? counts[lane] : 1, .drop = op.drop, .must_not_complete = op.no_complete};
    if (op.expect_tx) change.tx = counts[lane];
    if (w.check) w.check->mbarrier_arrive(w, i, lane, a, op.synchronises);
    const uint64_t before = change_mbarrier(w, i, lane, a, change);
    if (op.has_state) row<uint64_t>(w, i.d)[lane] = before;
  }
  note_event(w);
}

void run_tx(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const Operation*>(i.ext);
  uint64_t addresses[kWarpSize];
  tagged_addresses(w, op.address, addresses);
  const uint32_t* counts = row<uint32_t>(w, op.count_row);
  for (uint32_t m = active(w, i); m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const int64_t count = counts[lane];
    change_mbarrier(w, i, lane, addresses[lane],
                    {.tx = op.kind == Operation::Kind::kExpectTx ? count : -count});
  }
  note_event(w);
}

// The parity of the phase that a lane waits for.
bool awaited(Warp& w, const Operation& op, int lane) {
  return op.parity ? row<uint32_t>(w, op.count_row)[lane] & 1
                   : mbarrier_parity(row<uint64_t>(w, op.count_row)[lane]);
}

bool same_for_all(uint32_t mask, const uint64_t* addresses) {
  const uint64_t first = addresses[__builtin_ctz(mask)];
  for (uint32_t m = mask; m; m &= m - 1)
    if (addresses[__builtin_ctz(m)] != first) return false;
  return true;
}

// Lanes whose phase is over.
uint32_t finished(Warp& w, const Instr& i, const Operation& op, uint32_t mask, const uint64_t* addresses) {
  uint32_t done = 0;
  const bool same = same_for_all(mask, addresses);
  bool parity = false;
  for (uint32_t m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    if (!same || m == mask) {
      check_own(w, i, lane, addresses[lane]);
      parity = read(w, i, lane, addresses[lane], *word_of(w, i, lane, addresses[lane])).parity;
    }
    if (parity != awaited(w, op, lane)) done |= 1u << lane;
  }
  return done;
}

void tell_observed(Warp& w, const Instr& i, const Operation& op, uint32_t done, const uint64_t* addresses) {
  while (done) {
    const uint64_t a = addresses[__builtin_ctz(done)];
    uint32_t together = 0;
    for (uint32_t m = done; m; m &= m - 1)
      if (addresses[__builtin_ctz(m)] == a) together |= m & -m;
    w.check->mbarrier_observe(w, i, together, a, op.synchronises);
    done &= ~together;
  }
}

void run_wait(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const Operation*>(i.ext);
  const uint32_t mask = active(w, i);
  if (!mask) return;
  uint64_t addresses[kWarpSize];
  tagged_addresses(w, op.address, addresses);
  const uint32_t done = finished(w, i, op, mask, addresses);
  uint32_t& result = predicate_row(w, i.d);
  result = (result & ~mask) | done;
  if (w.check && done) tell_observed(w, i, op, done, addresses);
  if (done) return;
  if (op.kind == Operation::Kind::kTestWait) {
    yield(w);
    return;
  }
  // Lanes that the guard left out do not wait.
  if (const uint32_t others = w.mask & ~mask) {
    w.splits.push_back({w.pc, others});
    w.mask = mask;
  }
  park(w, i, false, try_wait_ready, mask, 0, "mbarrier.try_wait");
}

void run_pending_count(Warp& w, const Instr& i) {
  const uint64_t* state = row<uint64_t>(w, i.a);
  each_lane(active(w, i), row<uint32_t>(w, i.d),
            [&](int l) { return static_cast<uint32_t>(state[l] & kMbarrierMaxCount); });
}

// --- decoding ---
void decode_arrive(Decoder& d, const Instruction& in, Operation op) {
  op.kind = Operation::Kind::kArrive;
  op.drop = in.parts[1] == "arrive_drop";
  op.expect_tx = in.has("expect_tx");
  op.no_complete = in.has("noComplete");
  op.synchronises = !in.has("relaxed");
  op.has_state = in.operands.at(0).kind != OperandKind::kSink;
  op.address = address_operand(d, in.operands.at(1), space_of(in));
  op.has_count = in.operands.size() > 2 && !op.expect_tx;
  if (in.operands.size() > 2) op.count_row = d.row(in.operands[2], Type::kU32);
  d.emit({.run = run_arrive, .d = d.row(in.operands[0], Type::kB64), .ext = d.program().keep(op)});
}

void decode_wait(Decoder& d, const Instruction& in, Operation op) {
  op.kind = in.parts[1] == "try_wait" ? Operation::Kind::kTryWait : Operation::Kind::kTestWait;
  op.parity = in.has("parity");
  op.synchronises = !in.has("relaxed");
  op.address = address_operand(d, in.operands.at(1), space_of(in));
  op.count_row = d.row(in.operands.at(2), op.parity ? Type::kU32 : Type::kB64);
  d.emit({.run = run_wait, .d = d.predicate(in.operands.at(0), nullptr), .ext = d.program().keep(op)});
}

}  // namespace

uint64_t Mbarrier::encode() const {
  const uint64_t word = uint64_t{pending} | uint64_t{expected} << 20 |
                        (static_cast<uint64_t>(tx) & 0x1fffff) << 40 | uint64_t{parity} << 63;
  return word | check_bits(word);
}

std::optional<Mbarrier> Mbarrier::decode(uint64_t word) {
  if ((word & kCheckMask) != check_bits(word)) return std::nullopt;
  Mbarrier b;
  b.pending = word & kMbarrierMaxCount;
  b.expected = word >> 20 & kMbarrierMaxCount;
  b.tx = static_cast<int32_t>(static_cast<uint32_t>(word >> 40) << 11) >> 11;
  b.parity = mbarrier_parity(word);
  return b;
}

bool Mbarrier::try_complete() {
  if (pending != 0 || tx != 0) return false;
  pending = expected;
  parity = !parity;
  return true;
}

uint64_t change_mbarrier(Warp& w, const Instr& i, int lane, uint64_t address, const MbarrierChange& change) {
  uint64_t* word = word_of(w, i, lane, address);
  const uint64_t before = *word;
  Mbarrier b = read(w, i, lane, address, before);
  const auto refuse = [&](const std::string& what) {
    fail(w, i, lane, ErrorCode::kLaunchFailure, fmt::format("[mbarrier] {}: {}", what, place_of(w, address)));
  };
  const int64_t tx = b.tx + change.tx;
  if (tx > int64_t{kMbarrierMaxCount} || tx < -int64_t{kMbarrierMaxCount})
    refuse(fmt::format("tx-count {} leaves its range of +-{}", tx, kMbarrierMaxCount));
  b.tx = static_cast<int32_t>(tx);
  if (change.add_pending) {
    if (b.pending == kMbarrierMaxCount) refuse("the pending count leaves its range");
    ++b.pending;
  }
  if (change.arrivals > b.pending)
    refuse(fmt::format("{} arrivals where {} are pending", change.arrivals, b.pending));
  if (change.drop && change.arrivals > b.expected)
    refuse(fmt::format("{} dropped of {} expected", change.arrivals, b.expected));
  b.pending -= static_cast<uint32_t>(change.arrivals);
  if (change.drop) b.expected -= static_cast<uint32_t>(change.arrivals);
  const bool complete = b.try_complete();
  if (complete && change.must_not_complete) refuse("an arrive.noComplete completes the phase");
  *word = b.encode();
  if (complete) {
    ++w.cta->cluster->events;
    if (w.check) w.check->mbarrier_phase(*w.cta->cluster, address);
  }
  return before;
}

bool try_wait_ready(Warp& w, const Split& s) {
  // The instruction before the one at which the lanes go on.
  const Instr& i = w.program->code[s.pc - 1];
  const auto& op = *static_cast<const Operation*>(i.ext);
  uint64_t last = 0;
  bool parity = false;
  for (uint32_t m = static_cast<uint32_t>(s.wait[0]); m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    uint64_t a = op.address.bits == 64 ? row<uint64_t>(w, op.address.row)[lane]
                                       : row<uint32_t>(w, op.address.row)[lane];
    a += static_cast<uint64_t>(op.address.offset);
    if (last == 0 || a != last) {
      // Own block: checked when the lanes came here.
      uint64_t word;
      std::memcpy(&word, w.cta->shared + shared_offset(a), sizeof word);
      parity = mbarrier_parity(word);
      last = a;
    }
    if (parity != awaited(w, op, lane)) return true;
  }
  return false;
}

bool decode_mbarrier(Decoder& d, const Instruction& in) {
  if (in.mnemonic() != "mbarrier") return false;
  const std::string_view what = in.parts.at(1);
  Operation op;
  if (what == "arrive" || what == "arrive_drop") {
    decode_arrive(d, in, op);
  } else if (what == "test_wait" || what == "try_wait") {
    decode_wait(d, in, op);
  } else if (what == "pending_count") {
    d.emit({.run = run_pending_count,
            .d = d.row(in.operands.at(0), Type::kU32),
            .a = d.row(in.operands.at(1), Type::kB64)});
  } else if (what == "init" || what == "inval" || what == "expect_tx" || what == "complete_tx") {
    using Kind = Operation::Kind;
    op.kind = what == "init"        ? Kind::kInit
              : what == "inval"     ? Kind::kInval
              : what == "expect_tx" ? Kind::kExpectTx
                                    : Kind::kCompleteTx;
    op.address = address_operand(d, in.operands.at(0), space_of(in));
    if (op.kind != Kind::kInval) op.count_row = d.row(in.operands.at(1), Type::kU32);
    const bool tx = op.kind == Kind::kExpectTx || op.kind == Kind::kCompleteTx;
    d.emit({.run = tx ? run_tx : run_init, .ext = d.program().keep(op)});
  } else {
    d.unknown(in);
  }
  return true;
}

}  // namespace ptxsim
