// Text that is wrong: the error names its line, and no size of text or number in it does harm.
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "ptx/module.h"
#include "tests/ptxsim/ptx/show.h"

namespace ptxsim::ptx {
namespace {

// "line: message" of the first error in a module or its bodies, "" where there is none.
std::string error_of(const std::string& text) {
  try {
    const auto module = parse_module(text);
    for (Function& function : module->functions) {
      if (!function.is_declaration) parse_body(*module, function);
    }
  } catch (const ParseError& error) {
    return fmt::format("{}: {}", error.line, error.what());
  }
  return "";
}

// Of a body whose first line is line 1.
std::string body_error(const std::string& body) {
  const std::string error = error_of(
      ".version 9.0 .target sm_90a .func f(.param .b32 a); .global .u32 g; .entry k(.param .u64 p0) { .reg "
      ".b32 %r<10>; "
      ".reg .b64 %rd<4>; .reg .pred %p<4>; " +
      body + "\nret; }");
  return error;
}

std::string repeat(const std::string& text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) result += text;
  return result;
}

TEST(PtxMalformed, ModulesNameTheLine) {
  const std::pair<std::string, std::string> cases[] = {
      {"", "1: PTX begins with .version"},
      {"\n\n.target sm_90a", "3: PTX begins with .version"},
      {"\x7f"
       "ELF",
       "1: PTX begins with .version"},
      {".version 9\n.target sm_90a", "2: a malformed .version"},
      {".version 9.0\n.address_size 64", "2: .target does not follow .version"},
      {kHeader + ".address_size 32", "4: only .address_size 64 is supported"},
      {kHeader + "garbage", "4: expected a directive before 'garbage'"},
      {kHeader + ".visible\n", "5: expected a directive before the end of the text"},
      {kHeader + ".nonsense 4", "4: unknown directive .nonsense"},
      {kHeader + "\x01", "4: expected a directive before the byte 1"},
      {kHeader + "/* open\n\n", "4: a comment without its closing */"},
      {kHeader + ".file 1 \"open\n", "4: a string without its closing quote"},
      {kHeader + ".file -1 \"a\"", "4: expected an integer before '-'"},
      {kHeader + ".section .debug_str {\n.b8 1\n", "4: '{' without its '}'"},
      {kHeader + ".entry k()\n{\n{ }\n", "5: '{' without its '}'"},
      {kHeader + ".entry k(\n.u32 a) { }", "5: expected .param or .reg before 'a'"},
      {kHeader + ".entry k(.param .u32 a\n.param .u32 b) { }", "5: expected ',' before '.'"},
      {kHeader + ".entry k()\n.maxntid 1.5 { }", "5: a floating-point number where an integer is needed"},
      {kHeader + ".entry k()\n.maxntid 99999999999 { }", "5: the number 99999999999 is too large here"},
      {kHeader + ".entry k()\n.unheard { }", "5: unknown directive .unheard of a function"},
      {kHeader + ".entry k() { }\n.entry k() { }", "5: 'k' is defined twice"},
      {kHeader + ".alias a, b;", "4: .alias of 'b', which is not declared"},
      {kHeader + ".local .u32 a;", "4: a variable of this space outside of functions"},
      {kHeader + ".global .u32 a;\n.global .u32 a;", "5: 'a' is defined twice"},
      {kHeader + ".global .align 3 .u32 a;", "4: the alignment 3 is no power of two"},
      {kHeader + ".global .align 4294967296 .u32 a;", "4: the number 4294967296 is too large here"},
      {kHeader + ".global a;", "4: expected a type before 'a'"},
      {kHeader + ".global .u33 a;", "4: '.u33' in a declaration"},
      {kHeader + ".global .u32 .u32 a;", "4: a second type, .u32"},
      {kHeader + ".global .pred a;", "4: a predicate outside of registers"},
      {kHeader + ".global .u32 a[0];", "4: a dimension of zero"},
      {kHeader + ".global .u32 a[];", "4: the variable 'a' has no size"},
      {kHeader + ".global .u32 a[2][];", "4: expected an integer before ']'"},
      {kHeader + ".global .u32 a[100000000000];", "4: the variable 'a' is too large"},
      {kHeader + ".global .u32 a[100000][100000][100000][100000];", "4: the variable 'a' is too large"},
      {kHeader + ".global .u32 a[][100000000000][100000000000] = {};", "4: the variable 'a' is too large"},
      {kHeader + ".global .u32 a[][10000000000] = {{}, {}, {},\n{}, {}, {}, {}};",
       "5: the variable 'a' is too large"},
      {kHeader + ".global .u32 a<3>;", "4: a parameterised name outside of .reg"},
      {kHeader + ".shared .u32 a = 1;", "4: an initialiser where none is allowed"},
      {kHeader + ".global .u32 a = {1};", "4: expected a constant before '{'"},
      {kHeader + ".global .u32 a[2] = {1, 2,\n3};", "5: too many values in an initialiser"},
      {kHeader + ".global .u32 a[2] = {1, 2,};", "4: too many values in an initialiser"},
      {kHeader + ".global .u32 a[2] = {{1}, {2}};", "4: expected a constant before '{'"},
      {kHeader + ".global .u32 a[2][2] = {1, 2};", "4: expected '{' before '1'"},
      {kHeader + ".global .u32 a = 1.5;", "4: a floating-point number for an integer variable"},
      {kHeader + ".global .f32 a = 1;", "4: an integer for a floating-point variable"},
      {kHeader + ".global .b128 a = 1;", "4: an initialiser of a .b128 variable"},
      {kHeader + ".global .u64 a = b;", "4: 'b' in an initialiser is not declared"},
      {kHeader + ".global .u16 a;\n.global .u16 b = a;", "5: an address in a variable of this type"},
      {kHeader + ".global .u8 a;\n.global .u8 b = 0x1fe(a);",
       "5: a mask of an address that does not select one byte"},
      {kHeader + ".global .u8 a;\n.global .u64 b = 0xff(a);",
       "5: a byte of an address in a variable of larger elements"},
      {kHeader + ".global .b8 a[] = \"text\";", "4: expected '{' before '\"'"},
      {kHeader + ".global .u8 a[200000000000] = {1};\n.global .u8 b[2][100000000000] = {{1}, {1}};",
       "5: initialised variables that are too large for this text"},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(error_of(text), expected) << text;
}

TEST(PtxMalformed, BodiesNameTheLine) {
  const std::pair<std::string, std::string> cases[] = {
      {"\n\nadd.u32 %r1, %r2, %r3", "4: expected ';' before 'ret'"},
      {"\nadd.u32 %r1, %r2 %r3;", "2: expected ';' before '%r3'"},
      {"\nadd.u32 %r1,;", "2: expected an operand before ';'"},
      {"\nadd. u32 %r1;", "2: expected a modifier before '.'"},
      {"\n;", "2: expected an instruction before ';'"},
      {"\n5;", "2: expected an instruction before '5'"},
      {"\n@%p9 ret;", "2: the guard '%p9' is no predicate"},
      {"\n@%r1 ret;", "2: the guard '%r1' is no predicate"},
      {"\n@%p1 L: ret;", "2: expected an operand before ':'"},
      {"\nmov.u32 %r1, nowhere;", "2: 'nowhere' is not declared"},
      {"\nbra\nnowhere;\n", "2: 'nowhere' is not declared"},
      {"\nbra L; { L: }", "2: 'L' is not declared"},
      {"L: bra\nL+4;", "1: an offset from the label 'L'"},
      {"mov.u64 %rd1, f+4;", "1: an offset from the function 'f'"},
      {"\nL:\nL: ret;", "3: 'L' is declared twice"},
      {"\n.reg .b32 %r1;", "2: '%r1' is declared twice"},
      {"\n.reg .b32 %r<2>;", "2: '%r<...>' is declared twice"},
      {"\n.reg .b32 p0;", "2: 'p0' is declared twice"},
      {"\n.reg .b32 _;", "2: '_' is no name"},
      {"\n.reg .b32 %;", "2: '%' without a name"},
      {"\n.reg b32 a;", "2: expected a type before 'b32'"},
      {"\n.reg .b32 a<-1>;", "2: expected an integer before '-'"},
      {"\n.reg .b32 a<2000000000>;", "2: too many registers for a function of this length"},
      {"\n.reg .v2 .b32 a<2>;", "2: a parameterised name of vector registers"},
      {"\n.reg .v2 .f32 v; mov.f32 v.z, v.x;", "2: the register has no lane '.z'"},
      {"\nmov.b32 %r1.b4, 1;", "2: the register has no lane '.b4'"},
      {"\nmov.b32 %r1.x, 1;", "2: the register has no lane '.x'"},
      {"\n.global .u32 x;", "2: a variable of this space inside a function is not supported"},
      {"\n.shared .u32 x[];", "2: the variable 'x' has no size"},
      {"\n.maxntid 4;", "2: unknown directive .maxntid"},
      {"\n.loc 1 2;", "2: expected an integer before ';'"},
      {"\n.loc 1 2 3, elsewhere 4", "2: 'elsewhere' in .loc"},
      {"\ncall nothing;", "2: 'nothing' is no function"},
      {"\ncall (%r1) f;", "2: expected ',' before 'f'"},
      {"\ncall f, (%r1;", "2: expected ',' before ';'"},
      {"\ncall %rd1, (%r1), proto;", "2: 'proto' is not declared"},
      {"\nT: .calltargets g;", "2: 'g' is no function"},
      {"\nT: .branchtargets f;", "2: the branch target 'f' is no label"},
      {"\nld.u32 %r1, [%rd1;", "2: expected ']' before ';'"},
      {"\nld.u32 %r1, [%rd1-4];", "2: expected ']' before '-'"},
      {"\nld.u32 %r1, [];", "2: expected an operand before ']'"},
      {"\nld.u32 %r1, [%tid.x];", "2: an address that is no register, variable or integer"},
      {"\nL: ld.u32 %r1, [L];", "2: the label 'L' in an address"},
      {"\nld.u32 %r1, [f];", "2: 'f' is not declared"},
      {"\nmov.b64 %rd1, {};", "2: an empty vector"},
      {"\nmov.b64 %rd1, {{{{{%r1}}}}};", "2: operands nested too deeply"},
      {"\nsetp.eq.u32 %p1|3, %r1, 0;", "2: expected a name before '3'"},
      {"\nsetp.eq.u32 %p1|g, %r1, 0;", "2: a pair of something other than registers"},
      {"\nx 0f3F80;", "2: 0f needs 8 hexadecimal digits"},
      {"\nx 0d3F800000;", "2: 0d needs 16 hexadecimal digits"},
      {"\nx 08;", "2: '8' inside a number"},
      {"\nx 0x;", "2: a number without digits"},
      {"\nx 12ab;", "2: 'a' inside a number"},
      {"\nx 1e;", "2: an exponent without digits"},
      {"\nx 1e999;", "2: a number outside the range of .f64"},
      {"\nx 18446744073709551616;", "2: an integer of more than 64 bits"},
      {"\nx 1/0;", "2: a constant expression divides by zero"},
      {"\nx 1%(2-2);", "2: a constant expression divides by zero"},
      {"\nx 1.0/0.0;", "2: a constant expression divides by zero"},
      {"\nx 1+2.0;", "2: integers and floating-point numbers in one constant"},
      {"\nx 1.0&2.0;", "2: '&' needs integers"},
      {"\nx 1.0<<2.0;", "2: '<<' needs integers"},
      {"\nx ~1.0;", "2: '~' needs an integer"},
      {"\nx (1+2;", "2: expected ')' before ';'"},
      {"\nx 1+%r1;", "2: the name '%r1' where a constant is needed"},
      {"\nx (.f32)1;", "2: a cast to .f32"},
      {"\nx 1 ? 2;", "2: expected ':' before ';'"},
      {"\n}", "3: expected a directive before 'ret'"},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(body_error(text), expected) << text;
}

TEST(PtxMalformed, DeepNestingIsAnError) {
  const int deep = 100000;
  EXPECT_EQ(body_error(repeat("{", deep) + repeat("}", deep)), "1: scopes nested too deeply");
  EXPECT_EQ(body_error("x " + repeat("(", deep) + "1" + repeat(")", deep) + ";"),
            "1: a constant expression nested too deeply");
  EXPECT_EQ(body_error("x " + repeat("-", deep) + "1;"), "1: a constant expression nested too deeply");
  EXPECT_EQ(body_error("x " + repeat("1?1:", deep) + "1;"), "1: a constant expression nested too deeply");
  EXPECT_EQ(body_error("x " + repeat("(.s64)", deep) + "1;"), "1: a constant expression nested too deeply");
  EXPECT_EQ(body_error("x " + repeat("[1,", deep) + "1;"), "1: operands nested too deeply");
  EXPECT_EQ(error_of(kHeader + ".global .u8 a" + repeat("[1]", deep) + ";"), "4: more than 16 dimensions");
  EXPECT_EQ(body_error("x 1" + repeat("+1", deep) + ";"), "");
  EXPECT_EQ(body_error(repeat("{", 60) + "ret;" + repeat("}", 60)), "");
}

// Each of these took time quadratic in its length in a parser that resolves names naively.
TEST(PtxMalformed, LongTextsTakeLinearTime) {
  std::string branches, labels, blocks, declarations;
  for (int i = 0; i < 20000; ++i) {
    branches += fmt::format("bra L{};", i);
    labels += fmt::format("L{}:", i);
    blocks += fmt::format("{{ .reg .b32 a; M: bra M; bra L{}; }}", i);
    declarations += fmt::format(".reg .b32 a<1>; .reg .b32 b{}<1>;", i);
  }
  EXPECT_EQ(body_error(branches + labels), "");
  EXPECT_EQ(body_error(repeat("{ N:", 50) + blocks + repeat("}", 50) + labels), "");
  EXPECT_EQ(body_error("bra L0; " + declarations), "1: 'a<...>' is declared twice");
  EXPECT_EQ(body_error(".reg .b32 a<60000>;"), "");
  EXPECT_EQ(body_error(".reg .b32 " + std::string(10000, 'a') + "<60000>;"),
            "1: too many registers for a function of this length");
  EXPECT_EQ(body_error(repeat("/* */ // \n", 50000)), "");
  EXPECT_EQ(body_error("mov a" + std::string(200000, '1') + ", 1;"),
            "1: 'a" + std::string(200000, '1') + "' is not declared");
}

// Every beginning of a module that is right is an error, and none does worse.
TEST(PtxMalformed, TruncatedText) {
  const std::string text =
      kHeader +
      ".global .u8 g; .global .u8 s[4] = {1, 2, 0xff(generic(g)+1)};\n.visible .entry k(.param .u64 p) "
      ".maxntid 32 {\n.reg .b32 %r<4>; "
      ".reg .pred q;\n.loc 1 2 3, function_name F, inlined_at 1 2 3\nL: @!q ld.v2.u32 {%r1, _}, [p+(4*2)];\n"
      "setp.eq.f32 q|_, 0f3F800000, -1.5e3; /* c */ bra L; }\n.file 1 \"a\"\n";
  EXPECT_EQ(error_of(text), "");
  for (size_t length = 0; length + 1 < text.size(); ++length) error_of(text.substr(0, length));
  for (size_t at = 0; at < text.size(); ++at) {
    for (const char c : {'\0', '{', '}', '"', '\xff', '.', '9', '%'}) {
      std::string changed = text;
      changed[at] = c;
      error_of(changed);
    }
  }
}

}  // namespace
}  // namespace ptxsim::ptx
