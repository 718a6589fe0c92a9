// Bodies: instructions, operands, scopes, labels, locations.
#include <gtest/gtest.h>

#include <bit>
#include <string>
#include <vector>

#include "ptx/module.h"
#include "tests/ptxsim/ptx/show.h"

namespace ptxsim::ptx {
namespace {

using Lines = std::vector<std::string>;

const std::string kRegisters =
    ".reg .b32 %r<10>; .reg .b64 %rd<10>; .reg .pred %p<4>, q; .reg .f32 %f<8>; .reg .f64 %fd<4>; .reg .b16 "
    "%rs<4>;\n";

// A kernel of the given body, with parameters p0 and p1, behind the given declarations.
struct Kernel {
  explicit Kernel(const std::string& body, const std::string& declarations = "")
      : module(parse_module(kHeader + declarations +
                            "\n.visible .entry k(.param .u64 p0, .param .align 8 .b8 p1[16]) {\n" +
                            kRegisters + body + "\n}\n")),
        function(module->functions.at(module->function_index.at("k"))) {
    parse_body(*module, function);
  }
  std::unique_ptr<Module> module;
  Function& function;
};

Lines instructions(const std::string& body, const std::string& declarations = "") {
  const Kernel kernel(body, declarations);
  return show(kernel.function);
}

std::string one(const std::string& instruction, const std::string& declarations = "") {
  const Lines lines = instructions(instruction, declarations);
  return lines.size() == 1 ? lines[0] : fmt::format("{} instructions", lines.size());
}

TEST(PtxInstructions, OpcodeIsSplitAtDots) {
  const Kernel kernel("ld.shared::cluster.v4.f32 {%f0, %f1, %f2, %f3}, [%r1];\nret;");
  const Instruction& in = kernel.function.body.at(0);
  EXPECT_EQ(in.opcode, "ld.shared::cluster.v4.f32");
  EXPECT_EQ(in.parts, (std::vector<std::string_view>{"ld", "shared::cluster", "v4", "f32"}));
  EXPECT_TRUE(in.has("v4"));
  EXPECT_FALSE(in.has("ld"));
  EXPECT_EQ(kernel.function.body.at(1).mnemonic(), "ret");
  EXPECT_TRUE(kernel.function.body.at(1).operands.empty());
}

TEST(PtxInstructions, BlanksAreAllowedBeforeModifiers) {
  EXPECT_EQ(one("add .u32\t%r1 ,%r2 , %r3 ;"), "add.u32 %r1, %r2, %r3");
  EXPECT_EQ(one("mov/* a */.b32 // b\n %r1,\n 1;"), "mov.b32 %r1, 1");
}

TEST(PtxInstructions, Guards) {
  EXPECT_EQ(instructions("@%p1 ret; @!%p2 bra.uni E; @ ! q exit; E:"),
            (Lines{"@%p1 ret", "@!%p2 bra.uni ->E@3", "@!q exit"}));
}

TEST(PtxInstructions, PredicatesPairsAndSinks) {
  EXPECT_EQ(one("setp.lt.and.s32 %p1|%p2, %r1, -1, !q;"), "setp.lt.and.s32 %p1|%p2, %r1, -1, not q");
  EXPECT_EQ(one("setp.eq.u32 _|%p2, %r1, 0;"), "setp.eq.u32 _|%p2, %r1, 0");
  EXPECT_EQ(one("shfl.sync.bfly.b32 %r1|%p1, %r2, 16, 31, -1;"),
            "shfl.sync.bfly.b32 %r1|%p1, %r2, 16, 31, -1");
  EXPECT_EQ(one("mbarrier.arrive.shared.b64 _, [%r1];"), "mbarrier.arrive.shared.b64 _, [%r1]");
  EXPECT_EQ(one("mov.b64 {%r1, _}, %rd1;"), "mov.b64 {%r1, _}, %rd1");
}

TEST(PtxInstructions, VideoSelectorsAndNegatedRegisters) {
  EXPECT_EQ(one("vadd.s32.u32.s32 %r1.b2, %r2.b0, %r3.h1;"), "vadd.s32.u32.s32 %r1.b2, %r2.b0, %r3.h1");
  EXPECT_EQ(one("vmad.s32.s32.s32 %r1, -%r2, %r3, %r4;"), "vmad.s32.s32.s32 %r1, not %r2, %r3, %r4");
}

TEST(PtxInstructions, VectorRegistersAreTheirLanes) {
  const Kernel kernel(
      ".reg .v4 .f32 v;\nmov.f32 v.x, %f1; mov.v4.f32 v, {%f1, %f2, %f3, %f4}; mov.f32 %f0, v.b;");
  EXPECT_EQ(show(kernel.function),
            (Lines{"mov.f32 v.x, %f1", "mov.v4.f32 {v.x, v.y, v.z, v.w}, {%f1, %f2, %f3, %f4}",
                   "mov.f32 %f0, v.z"}));
  EXPECT_EQ(kernel.function.registers.back().type, Type::kF32);
}

TEST(PtxInstructions, SpecialRegisters) {
  EXPECT_EQ(one("mov.u32 %r1, %tid.x;"), "mov.u32 %r1, <%tid.x>");
  EXPECT_EQ(one("mov.u64 %rd1, %globaltimer;"), "mov.u64 %rd1, <%globaltimer>");
  EXPECT_EQ(one("mov.u32 %r1, WARP_SZ;"), "mov.u32 %r1, <WARP_SZ>");
}

TEST(PtxInstructions, Addresses) {
  const std::string globals = ".global .u32 g[4]; .extern .shared .align 16 .b8 dyn[];";
  EXPECT_EQ(one("ld.global.u32 %r1, [%rd1];"), "ld.global.u32 %r1, [%rd1]");
  EXPECT_EQ(one("ld.global.u32 %r1, [ %rd1 + 16 ];"), "ld.global.u32 %r1, [%rd1]+16");
  EXPECT_EQ(one("ld.global.u32 %r1, [%rd1+-4];"), "ld.global.u32 %r1, [%rd1]-4");
  EXPECT_EQ(one("ld.global.u32 %r1, [%rd1+4*(2+1)];"), "ld.global.u32 %r1, [%rd1]+12");
  EXPECT_EQ(one("ld.local.u32 %r1, [0x10];"), "ld.local.u32 %r1, [16]");
  EXPECT_EQ(one("ld.param.u64 %rd1, [p0];"), "ld.param.u64 %rd1, [p0]");
  EXPECT_EQ(one("ld.param.u64 %rd1, [p1+8];"), "ld.param.u64 %rd1, [p1]+8");
  EXPECT_EQ(one("ld.global.u32 %r1, [g+4];", globals), "ld.global.u32 %r1, [@g]+4");
  EXPECT_EQ(one("mov.u64 %rd1, g+4;", globals), "mov.u64 %rd1, @g+4");
  EXPECT_EQ(one("mov.b64 %rd1, p1;"), "mov.b64 %rd1, p1");
  EXPECT_EQ(one("mov.u32 %r1, dyn;", globals), "mov.u32 %r1, @dyn");
  EXPECT_EQ(one("tex.2d.v4.f32.s32 {%f0, %f1, %f2, _}, [%rd1, %rd2, {%r1, %r2}];"),
            "tex.2d.v4.f32.s32 {%f0, %f1, %f2, _}, [%rd1, %rd2, {%r1, %r2}]");
}

TEST(PtxInstructions, TensorMapAddressKeepsItsCoordinatesTogether) {
  const Kernel kernel(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%r5], [%rd3, {%r6, 128}], [%r2+8], %rs1;");
  EXPECT_EQ(show(kernel.function).at(0),
            "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
            "[%r5], [%rd3, {%r6, 128}], [%r2]+8, %rs1");
  const Operand& map = kernel.function.body[0].operands[1];
  ASSERT_EQ(map.elements.size(), 2u);
  EXPECT_EQ(map.elements[1].kind, OperandKind::kVector);
  EXPECT_EQ(kernel.function.body[0].parts.back(), "multicast::cluster");
}

TEST(PtxConstants, Literals) {
  const std::pair<std::string, std::string> cases[] = {
      {"0", "0"},
      {"42", "42"},
      {"-7", "-7"},
      {"0x1F", "31"},
      {"0X1fU", "31"},
      {"017", "15"},
      {"0b101", "5"},
      {"10U", "10"},
      {"18446744073709551615", "-1"},
      {"0x8000000000000000", "-9223372036854775808"},
      {"1.5", "d(1.5)"},
      {".5", "d(0.5)"},
      {"2.", "d(2)"},
      {"1e3", "d(1000)"},
      {"-1.5e-1", "d(-0.15)"},
      {"0f3F800000", "f(1)"},
      {"0Fc0000000", "f(-2)"},
      {"0d4000000000000000", "d(2)"},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(one("x _, " + text + ";"), "x _, " + expected);
}

TEST(PtxConstants, FloatsKeepTheirBits) {
  const Kernel kernel("mov.f32 %f1, 0f7FA00001; mov.f64 %fd1, 0dFFF4000000000001; mov.f64 %fd1, -0.0;");
  const auto operand = [&](int i) -> const Operand& { return kernel.function.body[i].operands[1]; };
  EXPECT_TRUE(operand(0).is_single);
  EXPECT_EQ(operand(0).integer, 0x7FA00001u);
  EXPECT_FALSE(operand(1).is_single);
  EXPECT_EQ(operand(1).integer, 0xFFF4000000000001u);
  EXPECT_EQ(operand(2).integer, std::bit_cast<uint64_t>(-0.0));
}

TEST(PtxConstants, Expressions) {
  const std::pair<std::string, std::string> cases[] = {
      {"(1+2)*3", "9"},
      {"4-1", "3"},
      {"4 - -1", "5"},
      {"1+2*3", "7"},
      {"-7/2", "-3"},
      {"-7%4", "-3"},
      {"1<<4|3", "19"},
      {"-8>>1", "-4"},
      {"0xFFFFFFFFFFFFFFFF>>60", "15"},
      {"1<<64", "0"},
      {"~0", "-1"},
      {"!5", "0"},
      {"--1", "1"},
      {"6&3^1", "3"},
      {"1==1&&2<1", "0"},
      {"0||3>=3", "1"},
      {"-1<0U", "0"},
      {"1?2:3", "2"},
      {"0?1:0?2:3", "3"},
      {"(.u64)-1>>63", "1"},
      {"(.s64)0xFFFFFFFFFFFFFFFF>>63", "-1"},
      {"WARP_SZ-1", "31"},
      {"2*WARP_SZ", "64"},
      {"1.5*2.0+0.5", "d(3.5)"},
      {"-(1.0/4.0)", "d(-0.25)"},
      {"1.0<2.0", "1"},
      {"0x8000000000000000/-1", "0"},
      {"(.s64)0x8000000000000000/-1", "-9223372036854775808"},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(one("x " + text + ", 1;"), "x " + expected + ", 1");
}

TEST(PtxScopes, InnerRegistersHideOuterOnes) {
  const Kernel kernel(
      ".reg .b32 a; mov.b32 a, %r1;\n"
      "{ .reg .b64 a; .reg .pred %r<2>; .reg .f32 %r7; mov.b64 a, 1; x %r1, %r7, %r8; }\n"
      "{ .reg .b16 a; mov.b16 a, 2; } mov.b32 a, %r7;");
  const Function& f = kernel.function;
  const auto type = [&](int i, int k) { return f.registers.at(f.body.at(i).operands.at(k).reg).type; };
  EXPECT_EQ(type(0, 0), Type::kB32);
  EXPECT_EQ(type(1, 0), Type::kB64);
  EXPECT_EQ(type(2, 0), Type::kPred);
  EXPECT_EQ(type(2, 1), Type::kF32);
  EXPECT_EQ(type(2, 2), Type::kB32);
  EXPECT_EQ(type(3, 0), Type::kB16);
  EXPECT_EQ(f.body[4].operands[0].reg, f.body[0].operands[0].reg);
  EXPECT_EQ(type(4, 1), Type::kB32);
}

TEST(PtxScopes, ParameterisedNames) {
  const Kernel kernel(
      ".reg .b32 x<3>, x1y; .reg .b64 a1<12>; .reg .pred a<2>; mov x0, x2; mov a11, a110; mov a0, x1y;");
  EXPECT_EQ(show(kernel.function), (Lines{"mov x0, x2", "mov a11, a110", "mov a0, x1y"}));
  const Function& f = kernel.function;
  EXPECT_EQ(f.registers[f.body[1].operands[0].reg].type, Type::kB64);
  EXPECT_EQ(f.registers[f.body[2].operands[0].reg].type, Type::kPred);
}

TEST(PtxScopes, LabelsAreSeenInTheirWholeScope) {
  EXPECT_EQ(instructions("L: bra L; { bra L; } bra M; M:"), (Lines{"bra ->L@0", "bra ->L@0", "bra ->M@3"}));
  // The inner L hides the outer one, also before it is reached.
  EXPECT_EQ(instructions("L: nop; { bra L; nop; L: bra L; { bra L; } } bra L;"),
            (Lines{"nop", "bra ->L@3", "nop", "bra ->L@3", "bra ->L@3", "bra ->L@0"}));
  EXPECT_EQ(instructions("{ { bra E; } } { E: } E: ret;"), (Lines{"bra ->E@1", "ret"}));
}

TEST(PtxScopes, VariablesOfInnerScopes) {
  const Kernel kernel(
      ".shared .align 1024 .b8 tile[4096]; .local .v2 .f32 pair, more[3];\n"
      "{ .param .b32 a; st.param.b32 [a], %r1; }\n{ .param .align 16 .b8 a[12]; st.param.b32 [a+4], tile; }\n"
      "mov.b64 %rd1, more;");
  const Function& f = kernel.function;
  ASSERT_EQ(f.variables.size(), 7u);
  EXPECT_EQ(f.variables[0].name, "p0");
  EXPECT_EQ(f.variables[1].bytes, 16u);
  EXPECT_EQ(f.variables[2].align, 1024u);
  EXPECT_EQ(f.variables[2].space, Space::kShared);
  EXPECT_EQ(f.variables[3].bytes, 8u);
  EXPECT_EQ(f.variables[3].align, 8u);
  EXPECT_EQ(f.variables[4].bytes, 24u);
  EXPECT_EQ(f.body[0].operands[0].elements[0].variable, 5);
  EXPECT_EQ(f.body[1].operands[0].elements[0].variable, 6);
  EXPECT_EQ(f.body[1].operands[0].integer, 4u);
  EXPECT_EQ(f.body[1].operands[0].elements[0].integer, 0u);
  EXPECT_EQ(f.variables[6].bytes, 12u);
  EXPECT_EQ(f.variables[6].align, 16u);
  EXPECT_EQ(f.body[2].operands[1].variable, 4);
}

TEST(PtxCalls, AllForms) {
  const std::string functions =
      ".func f();\n.func (.param .b32 r) g(.param .b32 a, .param .b64 b);\n.extern .func (.param .b32 r) "
      "vprintf(.param .b64 a, "
      ".param .b64 b);\n";
  const std::string parameters = ".param .b32 ret; .param .b32 a0; .param .b64 a1;\n";
  EXPECT_EQ(
      instructions(parameters + "call f; call.uni f, (); call (), f, ();\n"
                                "call.uni (ret), g, (a0, a1);\ncall (%r1), g, (%r2, 5);\n@%p1 call.uni "
                                "(ret),\nvprintf,\n(\na1,\na1\n);",
                   functions),
      (Lines{"call {}, &f, {}", "call.uni {}, &f, {}", "call {}, &f, {}", "call.uni {ret}, &g, {a0, a1}",
             "call {%r1}, &g, {%r2, 5}", "@%p1 call.uni {ret}, &vprintf, {a1, a1}"}));
  EXPECT_EQ(instructions(
                parameters +
                    "proto : .callprototype (.param .b32 _) _ (.param .b32 _, .param .align 8 .b8 _[12]);\n"
                    "P2: .callprototype _ () .noreturn;\nT: .calltargets f, g;\n"
                    "call (ret), %rd1, (a0, a1), proto; call %rd1, P2; call (ret), %rd1, (a0, a1), T;",
                functions),
            (Lines{"call {ret}, %rd1, {a0, a1}, ->proto@0", "call {}, %rd1, {}, ->P2@0",
                   "call {ret}, %rd1, {a0, a1}, ->T@0"}));
  EXPECT_EQ(one("mov.u64 %rd1, g;", functions), "mov.u64 %rd1, &g");
}

TEST(PtxCalls, BranchTargets) {
  const Kernel kernel("T: .branchtargets A, B, A;\nbrx.idx.uni %r1, T;\nA: nop;\nB: ret;");
  EXPECT_EQ(show(kernel.function).at(0), "brx.idx.uni %r1, ->T@0");
  const Label& table = kernel.function.labels.at(kernel.function.body[0].operands[1].label);
  ASSERT_EQ(table.targets.size(), 3u);
  EXPECT_EQ(kernel.function.labels[table.targets[0]].at, 1);
  EXPECT_EQ(kernel.function.labels[table.targets[1]].at, 2);
  EXPECT_EQ(table.targets[2], table.targets[0]);
}

TEST(PtxCalls, ParametersInRegisters) {
  const auto module =
      parse_module(kHeader +
                   ".func (.reg .u32 r) f(.reg .u32 a, .param .b64 b)\n{ .reg .u64 x; add.u32 r, a, 1; "
                   "ld.param.b64 x, [b]; ret; }\n.visible .func declared();");
  Function& f = module->functions.at(0);
  EXPECT_EQ(f.parameters.at(0).reg, -1);
  parse_body(*module, f);
  EXPECT_EQ(show(f), (Lines{"add.u32 r, a, 1", "ld.param.b64 x, [b]", "ret"}));
  ASSERT_EQ(f.variables.size(), 3u);  // a, b, r
  EXPECT_EQ(f.variables[0].reg, f.parameters[0].reg);
  EXPECT_EQ(f.registers.at(f.parameters[0].reg).name, "a");
  EXPECT_EQ(f.parameters[1].reg, -1);
  EXPECT_EQ(f.registers.at(f.results[0].reg).name, "r");
  EXPECT_EQ(f.variables[2].name, "r");
  EXPECT_THROW(parse_body(*module, module->functions.at(1)), ParseError);
}

TEST(PtxLocations, LinesOfTextAndSource) {
  const auto module =
      parse_module(kHeader +                                                                         // 1-3
                   "/* two\nlines */ .entry k\n{\n.loc 2 10 0\n.reg .b32 a;\n"                       // 4-8
                   "mov.b32 a,\n  1;\n"                                                              // 9, 10
                   "\t.loc\t3 477 13, function_name $L__info_string5+4, inlined_at 2 304 9\n"        // 11
                   "mov.b32 a, 2; mov.b32 a, 3;\n.pragma \"nounroll\";\n@%undeclared_is_special:\n"  // 12-14
                   "}\n.file 2 \"a.cu\"\n.file 3 \"b.h\", 1700000000, 123\n");
  EXPECT_EQ(module->files.at(2), "a.cu");
  EXPECT_EQ(module->files.at(3), "b.h");
  Function& f = module->functions.at(0);
  EXPECT_EQ(f.loc.ptx_line, 5);
  EXPECT_EQ(f.text_line, 6);
  try {
    parse_body(*module, f);
    FAIL();
  } catch (const ParseError& error) {
    EXPECT_EQ(error.line, 14);
    EXPECT_FALSE(f.parsed);
    EXPECT_TRUE(f.body.empty());
  }
  const auto right =
      parse_module(kHeader +
                   ".entry k\n{\n.loc 2 10 0\n.reg .b32 a;\nmov.b32 a,\n  1;\n"
                   ".loc 3 477 13, function_name $L__info_string5, inlined_at 2 304 9\nL: mov.b32 a, 2;\n}");
  Function& g = right->functions.at(0);
  parse_body(*right, g);
  EXPECT_EQ(g.loc.file, 2);
  EXPECT_EQ(g.loc.line, 10);
  EXPECT_EQ(g.body[0].loc.ptx_line, 8);
  EXPECT_EQ(g.body[0].loc.file, 2);
  EXPECT_EQ(g.body[0].loc.line, 10);
  EXPECT_EQ(g.body[1].loc.ptx_line, 11);
  EXPECT_EQ(g.body[1].loc.file, 3);
  EXPECT_EQ(g.body[1].loc.line, 477);
}

}  // namespace
}  // namespace ptxsim::ptx
