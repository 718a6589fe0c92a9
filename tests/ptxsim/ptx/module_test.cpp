// Declarations: variables with their initialisers, functions with their parameters and directives, whole
// modules as nvcc writes them.
#include "ptx/module.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "tests/ptxsim/ptx/show.h"

namespace ptxsim::ptx {
namespace {

using Lines = std::vector<std::string>;

// The last variable of a module.
Variable variable(const std::string& declarations) {
  const auto module = parse_module(kHeader + declarations);
  return module->variables.back();
}

template <class T>
std::vector<T> values(const Variable& v) {
  std::vector<T> result(v.bytes / sizeof(T));
  if (v.init.size() > v.bytes) throw std::length_error("an initialiser longer than its variable");
  if (!v.init.empty()) std::memcpy(result.data(), v.init.data(), v.init.size());
  return result;
}

// "offset:bytes symbol+addend>>shift", with * for generic().
Lines addresses(const Variable& v) {
  Lines result;
  for (const AddressInit& a : v.addresses) {
    result.push_back(fmt::format("{}:{} {}{}{:+}>>{}", a.offset, a.bytes, a.generic ? "*" : "", a.symbol,
                                 a.addend, a.shift));
  }
  return result;
}

TEST(PtxModule, Header) {
  const auto module =
      parse_module("//\n// Generated\n//\n\n.version 8.7\n.target sm_90a, debug\n.address_size 64\n");
  EXPECT_EQ(module->version, 87);
  EXPECT_EQ(module->target, "sm_90a");
  EXPECT_EQ(module->address_size, 64);
  EXPECT_EQ(parse_module(kHeader + std::string(40, '\0'))->version, 90);  // padded
}

TEST(PtxModule, TypesByName) {
  for (const char* name : {"pred", "b8",  "b16", "b32", "b64",   "b128", "u8",     "u16", "u32",  "u64", "s8",
                           "s16",  "s32", "s64", "f16", "f16x2", "bf16", "bf16x2", "f32", "tf32", "f64"}) {
    EXPECT_NE(type_named(name), Type::kNone) << name;
    EXPECT_GT(size_of(type_named(name)), 0) << name;
  }
  EXPECT_EQ(type_named("s16"), Type::kS16);
  EXPECT_EQ(size_of(Type::kB128), 16);
  EXPECT_EQ(size_of(Type::kBf16x2), 4);
  EXPECT_EQ(type_named("e4m3"), Type::kNone);
  EXPECT_EQ(type_named(""), Type::kNone);
}

TEST(PtxVariables, SpacesSizesAndAlignment) {
  const auto module = parse_module(
      kHeader +
      ".global .align 4 .u32 a;\n.visible .const .align 16 .b8 b[5][3];\n.extern .shared .align 128 .b8 "
      "c[];\n"
      ".weak .global .attribute(.managed) .v4 .f32 d, e[2];\n.common .global .f64 f;\n.shared .u16 g;\n"
      ".global .attribute(.unified(0xAB, 0xCD)) .b64 h;");
  const auto v = [&](std::string_view name) -> const Variable& {
    return module->variables.at(module->variable_index.at(name));
  };
  EXPECT_EQ(v("a").space, Space::kGlobal);
  EXPECT_EQ(v("b").space, Space::kConst);
  EXPECT_EQ(v("b").bytes, 15u);
  EXPECT_EQ(v("b").align, 16u);
  EXPECT_TRUE(v("c").is_extern);
  EXPECT_EQ(v("c").bytes, 0u);
  EXPECT_EQ(v("c").align, 128u);
  EXPECT_EQ(v("d").bytes, 16u);
  EXPECT_EQ(v("d").align, 16u);
  EXPECT_EQ(v("e").bytes, 32u);
  EXPECT_EQ(v("f").align, 8u);
  EXPECT_EQ(v("g").space, Space::kShared);
  EXPECT_EQ(v("h").bytes, 8u);
  EXPECT_EQ(module->variables.size(), 8u);
}

TEST(PtxVariables, ADefinitionReplacesItsExternDeclaration) {
  const auto module = parse_module(
      kHeader + ".extern .global .u32 a;\n.visible .global .u32 a = 7;\n.extern .global .u32 a;");
  ASSERT_EQ(module->variables.size(), 1u);
  EXPECT_FALSE(module->variables[0].is_extern);
  EXPECT_EQ(values<uint32_t>(module->variables[0]), (std::vector<uint32_t>{7}));
}

TEST(PtxInitialisers, Numbers) {
  EXPECT_EQ(values<uint32_t>(variable(".global .u32 a = (1<<4)+2;")), (std::vector<uint32_t>{18}));
  EXPECT_EQ(values<int16_t>(variable(".global .s16 a[3] = {-1, 65535, 2};")),
            (std::vector<int16_t>{-1, -1, 2}));
  EXPECT_EQ(values<uint8_t>(variable(".const .align 1 .b8 a[5] = {1, 2, 255};")),
            (std::vector<uint8_t>{1, 2, 255, 0, 0}));
  EXPECT_EQ(values<float>(variable(".global .f32 a[3] = {0f3F800000, 0.5, 0d4000000000000000};")),
            (std::vector<float>{1, 0.5, 2}));
  EXPECT_EQ(values<double>(variable(".global .f64 a[3] = {0f3F800000, 0.1, 0dC000000000000000};")),
            (std::vector<double>{1, 0.1, -2}));
  EXPECT_EQ(values<float>(variable(".global .b32 a = 1.5;")), (std::vector<float>{1.5}));
  EXPECT_EQ(values<uint64_t>(variable(".global .b64 a = 18325686938964613173;")),
            (std::vector<uint64_t>{18325686938964613173u}));
  EXPECT_TRUE(variable(".global .u32 a[4] = {};").init.empty());
}

TEST(PtxInitialisers, NestedArraysAreFilledWithZeros) {
  EXPECT_EQ(values<int32_t>(variable(".global .s32 a[][2] = {{-1, 0}, {5}, {}, {7, 8}};")),
            (std::vector<int32_t>{-1, 0, 5, 0, 0, 0, 7, 8}));
  EXPECT_EQ(values<uint8_t>(variable(".global .u8 a[2][2][2] = {{{1}, {2, 3}}, {{}, {4}}};")),
            (std::vector<uint8_t>{1, 0, 2, 3, 0, 0, 4, 0}));
  EXPECT_EQ(values<float>(variable(".global .v4 .f32 a[2] = {{1.0, 2.0, 3.0, 4.0}, {5.0}};")),
            (std::vector<float>{1, 2, 3, 4, 5, 0, 0, 0}));
}

TEST(PtxInitialisers, Addresses) {
  const std::string before = ".global .b8 x[64];\n.func f();\n";
  const Variable v =
      variable(before + ".global .align 8 .u64 a[6] = {1, generic(x)+12, x+-4, f, generic(x)-8, 2};");
  EXPECT_EQ(addresses(v), (Lines{"8:8 *x+12>>0", "16:8 x-4>>0", "24:8 f+0>>0", "32:8 *x-8>>0"}));
  EXPECT_EQ(values<uint64_t>(v), (std::vector<uint64_t>{1, 0, 0, 0, 0, 2}));
  EXPECT_EQ(addresses(variable(before + ".global .u32 a = x;")), (Lines{"0:4 x+0>>0"}));
  EXPECT_EQ(
      addresses(variable(before + ".global .align 1 .u8 a[5] = {9, 0XFF(generic(x)+8), 0xFF00(generic(x)+8), "
                                  "0xFF00000000000000(f), 3};")),
      (Lines{"1:1 *x+8>>0", "2:1 *x+8>>8", "3:1 f+0>>56"}));
}

TEST(PtxFunctions, ParametersAndDirectives) {
  const auto module = parse_module(kHeader +
                                   ".visible .entry k(\n\t.param .u64 .ptr .global .align 16 p,\n\t.param "
                                   ".align 64 .b8 map[128],\n\t.param .u64 .ptr q,\n"
                                   "\t.param .f32 e[4]\n)\n.maxntid 256, 2\n.minnctapersm 3\n.maxnreg "
                                   "64\n.explicitcluster\n.reqnctapercluster 4, 1, 1\n"
                                   ".maxclusterrank 8\n.blocksareclusters\n.pragma \"abi\";\n{ ret; }\n"
                                   ".entry e .reqntid 32 { }\n"
                                   ".weak .func (.param .align 8 .b8 r[24]) f (.param .b32 a, .param .b8 "
                                   "more[]) .noreturn .abi_preserve 14 { exit; }\n"
                                   ".func .attribute(.unified(1, 2)) bare { ret; }\n");
  const Function& k = *module->find("k");
  EXPECT_TRUE(k.is_entry);
  EXPECT_EQ(k.max_threads, (std::array{256, 2, 1}));
  EXPECT_EQ(k.required_threads, (std::array{0, 0, 0}));
  EXPECT_EQ(k.required_cluster, (std::array{4, 1, 1}));
  EXPECT_TRUE(k.explicit_cluster);
  EXPECT_EQ(k.min_ctas, 3);
  EXPECT_EQ(k.max_registers, 64);
  EXPECT_EQ(k.loc.ptx_line, 4);
  ASSERT_EQ(k.parameters.size(), 4u);
  EXPECT_EQ(k.parameters[0].align, 8u);  // .ptr .align is about what it points to
  EXPECT_EQ(k.parameters[1].align, 64u);
  EXPECT_EQ(k.parameters[1].bytes, 128u);
  EXPECT_EQ(k.parameters[3].bytes, 16u);
  EXPECT_EQ(k.parameters[3].align, 4u);
  EXPECT_EQ(module->find("e")->required_threads, (std::array{32, 1, 1}));
  const Function& f = *module->find("f");
  EXPECT_FALSE(f.is_entry);
  EXPECT_EQ(f.results.at(0).bytes, 24u);
  EXPECT_EQ(f.parameters.at(1).bytes, 0u);
  EXPECT_TRUE(module->find("bare")->parameters.empty());
  EXPECT_EQ(module->find("nothing"), nullptr);
}

TEST(PtxFunctions, DefinitionsAreFoundBeforeDeclarations) {
  const auto module = parse_module(
      kHeader + ".func f();\n.extern .func g();\n.func h();\n.alias h, f;\n.func f() { ret; }\n.func f();");
  EXPECT_EQ(module->functions.size(), 5u);
  EXPECT_EQ(module->function_index.at("f"), 3);
  EXPECT_FALSE(module->find("f")->is_declaration);
  EXPECT_TRUE(module->find("g")->is_declaration);
  EXPECT_EQ(module->find("h"), module->find("f"));
}

TEST(PtxFunctions, BodiesAreDelimitedBehindStringsAndComments) {
  const auto module =
      parse_module(kHeader +
                   ".func f() { // }\n .pragma \"}{\"; /* } */ { nop; } }\n.section .debug_str\n{\n.b8 1, 2\n"
                   "$L__info_string0:\n.b8 95,0 // }\n}\n.func g() { ret; }\n");
  ASSERT_EQ(module->functions.size(), 2u);
  EXPECT_EQ(module->functions[0].text, "{ // }\n .pragma \"}{\"; /* } */ { nop; } }");
  EXPECT_EQ(module->functions[1].loc.ptx_line, 12);
  parse_body(*module, module->functions[0]);
  EXPECT_EQ(show(module->functions[0]), (Lines{"nop"}));
}

// nvcc 13.0 -lineinfo, names shortened: a table of functions, an indirect call, printf.
TEST(PtxCompiled, IndirectCallAndPrintf) {
  const auto module = parse_module(R"(//
// Generated by NVIDIA NVVM Compiler
//
.version 9.0
.target sm_90a
.address_size 64

.func  (.param .b32 func_retval0) _Z2f1i
(
	.param .b32 _Z2f1i_param_0
)
;
.extern .func  (.param .b32 func_retval0) vprintf
(
	.param .b64 vprintf_param_0,
	.param .b64 vprintf_param_1
)
;
.global .align 8 .u64 table[2] = {_Z2f1i, _Z2f1i};
.global .align 1 .b8 $str[4] = {37, 100, 10};

.func  (.param .b32 func_retval0) _Z2f1i(
	.param .b32 _Z2f1i_param_0
)
{
	.reg .b32 	%r<3>;
	.loc	1 16 0
	ld.param.u32 	%r1, [_Z2f1i_param_0];
	.loc	1 16 35
	add.s32 	%r2, %r1, 1;
	st.param.b32 	[func_retval0+0], %r2;
	ret;

}
	// .globl	_Z1kPi
.visible .entry _Z1kPi(
	.param .u64 _Z1kPi_param_0
)
.maxntid 256, 1, 1
{
	.local .align 8 .b8 	__local_depot7[8];
	.reg .b64 	%SP;
	.reg .b64 	%SPL;
	.reg .b32 	%r<6>;
	.reg .b64 	%rd<9>;

	mov.u64 	%SPL, __local_depot7;
	cvta.local.u64 	%SP, %SPL;
	ld.param.u64 	%rd1, [_Z1kPi_param_0];
	mov.u64 	%rd2, table;
	ld.global.u64 	%rd3, [%rd2+8];
	{ // callseq 7, 0
	.reg .b32 temp_param_reg;
	.param .b32 param0;
	st.param.b32 	[param0+0], %r1;
	.param .b32 retval0;
	prototype_7 : .callprototype (.param .b32 _) _ (.param .b32 _);
	call (retval0), 
	%rd3, 
	(
	param0
	)
	, prototype_7;
	ld.param.b32 	%r2, [retval0+0];
	} // callseq 7
	st.local.u32 	[%SPL], %r2;
	mov.u64 	%rd4, $str;
	cvta.global.u64 	%rd5, %rd4;
	add.u64 	%rd6, %SP, 0;
	{ // callseq 8, 0
	.reg .b32 temp_param_reg;
	.param .b64 param0;
	st.param.b64 	[param0+0], %rd5;
	.param .b64 param1;
	st.param.b64 	[param1+0], %rd6;
	.param .b32 retval0;
	call.uni (retval0), 
	vprintf, 
	(
	param0, 
	param1
	);
	ld.param.b32 	%r3, [retval0+0];
	} // callseq 8
	ret;

}
	.file	1 "a.cu"
	.section	.debug_str
	{
$L__info_string0:
.b8 95,90,78,0

	}
)");
  EXPECT_EQ(addresses(module->variables.at(0)), (Lines{"0:8 _Z2f1i+0>>0", "8:8 _Z2f1i+0>>0"}));
  Function& callee = module->functions.at(module->function_index.at("_Z2f1i"));
  parse_body(*module, callee);
  EXPECT_EQ(show(callee), (Lines{"ld.param.u32 %r1, [_Z2f1i_param_0]", "add.s32 %r2, %r1, 1",
                                 "st.param.b32 [func_retval0], %r2", "ret"}));
  EXPECT_EQ(callee.body[1].loc.line, 16);
  Function& kernel = module->functions.at(module->function_index.at("_Z1kPi"));
  parse_body(*module, kernel);
  EXPECT_EQ(show(kernel),
            (Lines{"mov.u64 %SPL, __local_depot7", "cvta.local.u64 %SP, %SPL",
                   "ld.param.u64 %rd1, [_Z1kPi_param_0]", "mov.u64 %rd2, @table",
                   "ld.global.u64 %rd3, [%rd2]+8", "st.param.b32 [param0], %r1",
                   "call {retval0}, %rd3, {param0}, ->prototype_7@6", "ld.param.b32 %r2, [retval0]",
                   "st.local.u32 [%SPL], %r2", "mov.u64 %rd4, @$str", "cvta.global.u64 %rd5, %rd4",
                   "add.u64 %rd6, %SP, 0", "st.param.b64 [param0], %rd5", "st.param.b64 [param1], %rd6",
                   "call.uni {retval0}, &vprintf, {param0, param1}", "ld.param.b32 %r3, [retval0]", "ret"}));
  EXPECT_NE(kernel.body[5].operands[0].elements[0].variable,
            kernel.body[12].operands[0].elements[0].variable);
}

// nvcc 13.0 -lineinfo: a wait on an mbarrier and a wgmma from inline assembly, each its own scope.
TEST(PtxCompiled, InlineAssembly) {
  const auto module = parse_module(kHeader + R"(
.visible .entry gemm(
	.param .align 128 .b8 gemm_param_0[128],
	.param .u64 gemm_param_1
)
.maxntid 128, 1, 1
.explicitcluster
.reqnctapercluster 2, 1, 1
{
	.reg .pred 	%p<2>;
	.reg .f32 	%f<12>;
	.reg .b32 	%r<13>;
	.reg .b64 	%rd<11>;
	.loc	1 3 0
	// demoted variable
	.shared .align 1024 .b8 tile[4096];
	// demoted variable
	.shared .align 8 .u64 bar;

	mov.b64 	%rd1, gemm_param_0;
	cvta.param.u64 	%rd3, %rd1;
	mov.u32 	%r9, bar;
	.loc	1 13 3
	// begin inline asm
	{
.reg .pred P1;
LAB_WAIT:
mbarrier.try_wait.parity.shared::cta.b64 P1, [%r9], %r10;
@P1 bra DONE;
bra LAB_WAIT;
DONE:
}
	// end inline asm
	{
.reg .pred P1;
LAB_WAIT:
mbarrier.try_wait.parity.shared::cta.b64 P1, [%r9], 1;
@P1 bra DONE;
bra LAB_WAIT;
DONE:
}
	// begin inline asm
	{
.reg .pred p;
setp.ne.b32 p, %r11, 0;
wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1, %f2, %f3, %f4}, %rd6, %rd6, p, 1, 1, 0, 0;
}
	wgmma.wait_group.sync.aligned 0;
	// end inline asm
	mov.f32 	%f5, 0f3F800000;
	ret;

}
)");
  Function& kernel = module->functions.at(0);
  parse_body(*module, kernel);
  EXPECT_EQ(show(kernel),
            (Lines{"mov.b64 %rd1, gemm_param_0", "cvta.param.u64 %rd3, %rd1", "mov.u32 %r9, bar",
                   "mbarrier.try_wait.parity.shared::cta.b64 P1, [%r9], %r10", "@P1 bra ->DONE@6",
                   "bra ->LAB_WAIT@3", "mbarrier.try_wait.parity.shared::cta.b64 P1, [%r9], 1",
                   "@P1 bra ->DONE@9", "bra ->LAB_WAIT@6", "setp.ne.b32 p, %r11, 0",
                   "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1, %f2, %f3, %f4}, %rd6, %rd6, p, "
                   "1, 1, 0, 0",
                   "wgmma.wait_group.sync.aligned 0", "mov.f32 %f5, f(1)", "ret"}));
  EXPECT_NE(kernel.body[4].guard, kernel.body[7].guard);
  EXPECT_EQ(kernel.body[3].loc.ptx_line, 31);
}

// nvcc 13.0 -G: labels between instructions, scopes of its own, debug sections.
TEST(PtxCompiled, DebugBuild) {
  const auto module = parse_module(R"(.version 9.0
.target sm_90a, debug
.address_size 64
.visible .entry k(
	.param .u64 k_param_0
)
{
	.reg .b32 	%r<4>;
	.reg .b64 	%rd<4>;
	.loc	1 39 0
$L__func_begin0:
	.loc	1 39 0
	.shared .align 4 .b8 sm[4224];
	mov.u32 	%r1, sm;
	{ .reg .b64 %tmp;
	  cvt.u64.u32 	%tmp, %r1;
	  cvta.shared.u64 	%rd1, %tmp; }
$L__tmp0:
	.loc	1 0 29
	bra.uni 	$L__BB0_1;
$L__BB0_1:
	ret;
$L__tmp1:
$L__func_end0:

}
	.file	1 "a.cu"
	.section	.debug_loc
	{
.b64 $L__tmp0
.b64 $L__func_end0
.b8 1

	}
	.section	.debug_macinfo	{	}
)");
  EXPECT_EQ(module->target, "sm_90a");
  Function& kernel = module->functions.at(0);
  parse_body(*module, kernel);
  EXPECT_EQ(show(kernel), (Lines{"mov.u32 %r1, sm", "cvt.u64.u32 %tmp, %r1", "cvta.shared.u64 %rd1, %tmp",
                                 "bra.uni ->$L__BB0_1@4", "ret"}));
  EXPECT_EQ(kernel.loc.line, 39);
  EXPECT_EQ(kernel.labels.back().at, 5);
}

}  // namespace
}  // namespace ptxsim::ptx
