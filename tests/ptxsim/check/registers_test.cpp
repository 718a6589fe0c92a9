// Registers that a wgmma uses until it has been waited for.
#include <algorithm>

#include "rig.h"

namespace ptxsim {
namespace {

using testing::Rig;

constexpr uint32_t kWritten = 1u << 31;
constexpr uint32_t row_of(int reg) { return 1024 + static_cast<uint32_t>(reg) * 128; }

// Instructions as (words of the opcode, written registers, read registers); register r is row_of(r).
class CheckRegisters : public ::testing::Test {
 protected:
  struct Line {
    std::vector<std::string_view> parts;
    std::vector<int> written, read;
    int guard = -1;
  };
  void program(const std::vector<Line>& lines) {
    Program& p = r.program();
    p.register_bytes = 65536;
    p.row_begin = {0};
    for (int pc = 0; pc < 64; ++pc) {
      if (pc < static_cast<int>(lines.size())) {
        const Line& line = lines[static_cast<size_t>(pc)];
        ptx::Instruction& in = r.text(pc);
        in.parts = line.parts;
        in.opcode = line.parts[0];
        r.program().opcodes[static_cast<size_t>(pc)] = in.opcode;
        in.guard = line.guard;
        for (const int reg : line.written) add(in, reg, kWritten);
        for (const int reg : line.read) add(in, reg, 0);
      }
      p.row_begin.push_back(static_cast<uint32_t>(p.row_uses.size()));
    }
  }
  void add(ptx::Instruction& in, int reg, uint32_t written) {
    in.operands.push_back({.kind = ptx::OperandKind::kRegister, .reg = reg});
    r.program().row_uses.push_back(row_of(reg) | written);
  }
  // The tensor core starts on accumulators `d` and registers `a`.
  AsyncId wgmma(int pc, const std::vector<int>& d, const std::vector<int>& a = {}) {
    Warp& w = r.warp(0);
    const AsyncId id = w.check->begin_async(w, r.at(pc), -1, Checker::Engine::kWgmma);
    for (const bool written : {true, false}) {
      std::vector<uint32_t> rows;
      for (const int reg : written ? d : a) rows.push_back(row_of(reg));
      if (!rows.empty())
        w.check->wgmma_rows(w, r.at(pc), id, rows.data(), static_cast<int>(rows.size()), written);
    }
    return id;
  }
  void run(int pc) {
    if (r.warp(0).rows_in_flight) r.warp(0).check->registers(r.warp(0), r.at(pc));
  }

  Rig r;
};

const std::vector<std::string_view> kFence = {"wgmma", "fence", "sync", "aligned"},
                                    kMma = {"wgmma", "mma_async", "sync"}, kAdd = {"add", "f32"},
                                    kMov = {"mov", "f32"}, kBra = {"bra"}, kWait = {"wgmma", "wait_group"};

TEST_F(CheckRegisters, AccumulatorsBelongToTheTensorCoreUntilTheWait) {
  program(
      {{kFence, {}, {}}, {kMma, {1, 2}, {1, 2}}, {kAdd, {3}, {1, 4}}, {kAdd, {2}, {4}}, {kAdd, {4}, {5}}});
  const AsyncId id = wgmma(1, {1, 2});
  EXPECT_EQ(r.warp(0).rows_in_flight, 2);
  EXPECT_FAULT("[registers] reads an accumulator of the wgmma at t.cu:2", run(2));
  EXPECT_FAULT("[registers] writes an accumulator of the wgmma", run(3));
  EXPECT_CLEAN(run(4));
  r.warp(0).check->wgmma_done(r.warp(0), id);
  EXPECT_EQ(r.warp(0).rows_in_flight, 0);
  EXPECT_CLEAN(run(2));
}

TEST_F(CheckRegisters, ACanBeReadButNotWritten) {
  program({{kFence, {}, {}}, {kMma, {1}, {1, 8}}, {kAdd, {3}, {8}}, {kAdd, {8}, {4}}});
  wgmma(1, {1}, {8});
  EXPECT_CLEAN(run(2));
  EXPECT_FAULT("[registers] writes a register of A", run(3));
}

TEST_F(CheckRegisters, CopiesAreInFlightToo) {
  program({{kFence, {}, {}},
           {kMma, {1}, {1}},
           {kMov, {5}, {1}},
           {kMma, {5}, {5}},
           {kAdd, {6}, {5}},
           {kMov, {7}, {9}}});
  const AsyncId first = wgmma(1, {1});
  EXPECT_CLEAN({
    run(2);
    run(3);
    run(5);
  });
  const AsyncId second = wgmma(3, {5});
  EXPECT_FAULT("[registers] reads an accumulator", run(4));
  r.warp(0).check->wgmma_done(r.warp(0), first);
  EXPECT_FAULT("[registers]", run(4));
  r.warp(0).check->wgmma_done(r.warp(0), second);
  EXPECT_EQ(r.warp(0).rows_in_flight, 0);
}

TEST_F(CheckRegisters, RowsServeOtherRegistersAfterTheirLast) {
  program({{kFence, {}, {}}, {kMma, {1}, {1}}, {kAdd, {}, {4}}, {kAdd, {}, {}}});
  // Instruction 2 writes register 77, which lives in the row of the dead register 1.
  r.text(2).operands.push_back({.kind = ptx::OperandKind::kRegister, .reg = 77});
  auto& uses = r.program().row_uses;
  uses.insert(uses.begin() + r.program().row_begin[3], row_of(1) | kWritten);
  for (size_t k = 3; k < r.program().row_begin.size(); ++k) ++r.program().row_begin[k];
  wgmma(1, {1});
  EXPECT_CLEAN(run(2));
  EXPECT_EQ(r.warp(0).rows_in_flight, 0);
}

TEST_F(CheckRegisters, WritesNeedAFenceBeforeTheWgmma) {
  program({{kAdd, {1}, {4}}, {kMma, {1}, {1}}});
  EXPECT_FAULT(
      "[registers] an accumulator was written at t.cu:1 (PTX line 100: add) and no wgmma.fence follows",
      wgmma(1, {1}));
}

TEST_F(CheckRegisters, CopiesBetweenFenceAndWgmmaAreTheCompilers) {
  program({{kAdd, {1}, {4}}, {kFence, {}, {}}, {kMov, {2}, {1}}, {kMov, {3}, {}}, {kMma, {2, 3}, {2, 3}}});
  EXPECT_CLEAN(wgmma(4, {2, 3}));
}

TEST_F(CheckRegisters, CopiesOfWhatWasWrittenBehindTheFence) {
  program({{kFence, {}, {}}, {kAdd, {1}, {4}}, {kMov, {2}, {1}}, {kMma, {2}, {2}}});
  EXPECT_FAULT("was written at t.cu:2", wgmma(3, {2}));
}

TEST_F(CheckRegisters, AWgmmaMayGoOnWithWhatTheLastOneLeft) {
  program({{kFence, {}, {}}, {kMma, {1}, {1}}, {kWait, {}, {}}, {kMma, {1}, {1}}});
  EXPECT_CLEAN(wgmma(3, {1}));
}

TEST_F(CheckRegisters, TheWriteMayComeAroundALoop) {
  for (const bool fenced : {true, false}) {
    Rig rig;
    Program& p = rig.program();
    //  0 fence | 1 LOOP: (fence) | 2 wgmma | 3 add acc | 4 @p bra LOOP
    const std::vector<std::vector<std::string_view>> parts = {kFence, fenced ? kFence : kAdd, kMma, kAdd,
                                                              kBra};
    std::vector<ptx::Instruction> body;
    for (const auto& words : parts)
      body.push_back({.opcode = words[0], .parts = words, .operands = {}, .loc = {1, 1, 1}});
    body[4].guard = 0;
    p.code[4].imm = 1;
    p.register_bytes = 65536;
    for (size_t k = 0; k < 5; ++k) p.source[k] = &body[k];
    p.row_begin = {0, 0, 0, 2, 3, 3};
    p.row_begin.resize(65, 3);
    p.row_uses = {row_of(1) | kWritten, row_of(1), row_of(1) | kWritten};
    Warp& w = rig.warp(0);
    const AsyncId id = w.check->begin_async(w, rig.at(2), -1, Checker::Engine::kWgmma);
    const uint32_t rows[] = {row_of(1)};
    const std::string said = testing::fault_of([&] { w.check->wgmma_rows(w, rig.at(2), id, rows, 1, true); });
    EXPECT_EQ(said.empty(), fenced) << said;
  }
}

}  // namespace
}  // namespace ptxsim
