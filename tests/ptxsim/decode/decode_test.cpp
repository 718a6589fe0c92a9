// Inlining and rows: what flatten() and allocate_rows() promise, on PTX small enough to read.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

#include "decode/allocate.h"
#include "decode/flatten.h"
#include "exec/decoder.h"

namespace ptxsim {
namespace {

using ptx::OperandKind;

struct Parsed {
  std::unique_ptr<ptx::Module> module;
  FlatKernel flat;
};

Parsed flat(const std::string& body) {
  Parsed p{ptx::parse_module(".version 9.0\n.target sm_90a\n.address_size 64\n" + body), {}};
  p.flat = flatten(*p.module, p.module->functions[p.module->function_index.at("k")]);
  return p;
}

int count(const FlatKernel& k, std::string_view mnemonic) {
  return static_cast<int>(
      std::count_if(k.body.begin(), k.body.end(), [&](const auto& in) { return in.mnemonic() == mnemonic; }));
}

constexpr const char* kTwice = R"(
.func (.param .b32 r) twice(.param .b32 x) {
  .reg .b32 %a<3>;
  .reg .pred %p;
  ld.param.u32 %a1, [x];
  setp.eq.u32 %p, %a1, 0;
  @%p ret;
  add.u32 %a2, %a1, %a1;
  st.param.u32 [r], %a2;
  ret;
}
)";

TEST(Flatten, CallsBecomeTheirBodies) {
  const Parsed p = flat(std::string(kTwice) + R"(
.entry k() {
  .reg .b32 %r<4>;
  .param .b32 in;
  .param .b32 out;
  st.param.u32 [in], %r1;
  call.uni (out), twice, (in);
  ld.param.u32 %r2, [out];
  call.uni (out), twice, (in);
  ld.param.u32 %r3, [out];
  ret;
})");
  EXPECT_EQ(count(p.flat, "call"), 0);
  EXPECT_EQ(count(p.flat, "add"), 2);
  // The early `ret` of each copy is a branch behind it; only the kernel's own stays.
  EXPECT_EQ(count(p.flat, "ret"), 1);
  EXPECT_EQ(count(p.flat, "bra"), 2);
  // Each copy has registers of its own.
  std::set<int> sums;
  for (const auto& in : p.flat.body)
    if (in.mnemonic() == "add") sums.insert(in.operands[0].reg);
  EXPECT_EQ(sums.size(), 2u);
  // The parameters of the callee are the variables that the caller passed.
  std::set<int> places;
  for (const auto& in : p.flat.body)
    if (in.mnemonic() == "st") places.insert(in.operands[0].elements[0].variable);
  EXPECT_EQ(places.size(), 2u);  // `in` and `out`
}

TEST(Flatten, GuardedCallIsBranchedAround) {
  const Parsed p = flat(std::string(kTwice) + R"(
.entry k() {
  .reg .pred %q;
  .param .b32 in;
  .param .b32 out;
  @%q call (out), twice, (in);
  ret;
})");
  ASSERT_GE(p.flat.body.size(), 2u);
  EXPECT_EQ(p.flat.body[0].mnemonic(), "bra");
  EXPECT_TRUE(p.flat.body[0].guard_negated);
  const int to = p.flat.labels[p.flat.body[0].operands[0].label].at;
  EXPECT_EQ(p.flat.body[to].mnemonic(), "ret");
}

TEST(Flatten, RecursionAndUnknownFunctionsStayCalls) {
  const Parsed p = flat(R"(
.extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 a);
.func again(.param .b32 x) {
  .param .b32 y;
  call.uni again, (y);
  ret;
}
.entry k() {
  .param .b32 in;
  .param .b64 f;
  .param .b64 a;
  .param .b32 n;
  call.uni again, (in);
  call.uni (n), vprintf, (f, a);
  ret;
})");
  EXPECT_EQ(count(p.flat, "call"), 2);
}

TEST(Flatten, SharedVariablesHaveTheirPlaces) {
  const Parsed p = flat(R"(
.shared .align 8 .b8 everybody[12];
.extern .shared .align 128 .b8 dynamic[];
.entry k() {
  .reg .b32 %r<4>;
  .shared .align 16 .b8 mine[20];
  mov.u32 %r1, everybody;
  mov.u32 %r2, mine;
  mov.u32 %r3, dynamic;
  ret;
})");
  auto at = [&](int k) { return p.flat.variables[p.flat.body[k].operands[1].variable].offset; };
  EXPECT_EQ(at(0), kSharedBase);
  EXPECT_EQ(at(1), kSharedBase + 16);
  EXPECT_EQ(at(2) % 128, 0u);
  EXPECT_GE(at(2), kSharedBase + 36);
}

// Registers read at or after each instruction, by a dataflow of one bit per register and instruction.
std::vector<std::set<int>> live_before(const FlatKernel& k) {
  const int n = static_cast<int>(k.body.size());
  std::vector<std::set<int>> live(n + 1);
  for (bool changed = true; changed;) {
    changed = false;
    for (int p = n - 1; p >= 0; --p) {
      const ptx::Instruction& in = k.body[p];
      std::set<int> now;
      const bool jumps = in.mnemonic() == "bra";
      if (!jumps || in.guard >= 0) now = live[p + 1];
      if (jumps)
        for (const int r : live[k.labels[in.operands[0].label].at]) now.insert(r);
      const Destinations to = destinations(in);
      if (to.count && in.guard < 0) now.erase(in.operands[0].reg);
      for (size_t o = to.count; o < in.operands.size(); ++o) {
        if (in.operands[o].reg >= 0) now.insert(in.operands[o].reg);
        for (const auto& e : in.operands[o].elements)
          if (e.reg >= 0) now.insert(e.reg);
      }
      if (in.guard >= 0) now.insert(in.guard);
      if (now != live[p]) {
        live[p] = now;
        changed = true;
      }
    }
  }
  return live;
}

TEST(Rows, LiveTogetherNeverShare) {
  std::string body =
      ".entry k(.param .u64 x) {\n  .reg .b32 %r<200>;\n  .reg .b64 %rd<40>;\n  .reg .pred %p<20>;\n";
  // Nested loops whose values live across back edges, and many that do not.
  body +=
      "  mov.u32 %r1, 0;\n  mov.u32 %r2, 7;\nOUTER:\n  mov.u32 %r3, 0;\n  add.u32 %r50, %r2, 1;\nINNER:\n";
  for (int k = 60; k < 190; ++k)
    body += "  add.u32 %r" + std::to_string(k) + ", %r" +
            std::to_string(k % 7 == 0 ? 50
                           : k == 60  ? 3
                                      : k - 1) +
            ", %r2;\n";
  body += "  add.u32 %r3, %r3, %r189;\n  setp.lt.u32 %p1, %r3, 100;\n  @%p1 bra INNER;\n";
  body += "  cvt.u64.u32 %rd1, %r50;\n  add.u64 %rd2, %rd1, 5;\n  @%p1 add.u64 %rd3, %rd2, %rd1;\n";
  body +=
      "  add.u32 %r1, %r1, 1;\n  setp.lt.u32 %p2, %r1, %r3;\n  @%p2 bra OUTER;\n  st.global.u32 [%rd3], "
      "%r1;\n  ret;\n}";
  const Parsed p = flat(body);
  const Rows rows = allocate_rows(p.flat, 64);
  const auto live = live_before(p.flat);
  for (const auto& now : live)
    for (const int a : now)
      for (const int b : now) {
        if (a == b) continue;
        const uint32_t a0 = rows.offset[a], a1 = a0 + row_bytes(p.flat.registers[a].type);
        const uint32_t b0 = rows.offset[b], b1 = b0 + row_bytes(p.flat.registers[b].type);
        ASSERT_TRUE(a1 <= b0 || b1 <= a0) << p.flat.registers[a].name << " and " << p.flat.registers[b].name;
      }
  // 130 short-lived values do not take 130 rows.
  EXPECT_LT(rows.end, 40u * 256);
  EXPECT_GE(rows.live_registers, 5);
}

}  // namespace
}  // namespace ptxsim
