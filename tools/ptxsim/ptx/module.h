// The text of a PTX module as data: declarations, functions, instructions with their operands resolved to the
// registers, labels and variables of their function. Nothing here knows what an opcode does. Source: PTX
// ISA 9.0, sections 4 (syntax), 5 (state spaces, types), 11 (directives).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace ptxsim::ptx {

// A line of the PTX text and what is wrong with it.
class ParseError : public std::runtime_error {
 public:
  ParseError(int line, const std::string& what) : std::runtime_error(what), line(line) {}
  int line;
};

enum class Space : uint8_t { kNone, kReg, kGlobal, kConst, kShared, kLocal, kParam };

enum class Type : uint8_t {
  kNone,
  kPred,
  kB8,
  kB16,
  kB32,
  kB64,
  kB128,
  kU8,
  kU16,
  kU32,
  kU64,
  kS8,
  kS16,
  kS32,
  kS64,
  kF16,
  kF16x2,
  kBf16,
  kBf16x2,
  kF32,
  kTf32,
  kF64,
};
// Bytes of one value; 0 for kNone, 1 for kPred (never stored).
int size_of(Type type);
// "u32" -> kU32; kNone where the word is no fundamental type.
Type type_named(std::string_view word);

// Where an instruction came from: a line of the PTX text, and of the source file where .loc says so (0 where
// not).
struct Location {
  int ptx_line = 0;
  int file = 0;  // key of Module::files
  int line = 0;
};

struct Register {
  std::string name;
  Type type = Type::kNone;
};

// A word inside a global initialiser that holds the address of another variable or function (generic() where
// `generic`): the `bytes` low bytes of (address >> shift). Packed structures have their pointers stored byte
// by byte.
struct AddressInit {
  uint64_t offset = 0;  // bytes from the start of the variable
  std::string symbol;
  int64_t addend = 0;
  bool generic = false;
  int bytes = 8;
  int shift = 0;
};

struct Variable {
  std::string name;
  Space space = Space::kNone;
  Type type = Type::kNone;
  uint64_t align = 1;
  uint64_t bytes = 0;  // 0: `extern .shared x[]`, as long as the launch says
  bool is_extern = false;
  std::vector<uint8_t> init;  // the first init.size() bytes, at most `bytes`; the rest is zeros
  std::vector<AddressInit> addresses;
  int reg = -1;  // a .reg parameter or result, after parse_body: its index into Function::registers
};

enum class OperandKind : uint8_t {
  kRegister,  // reg; negated for !p
  kInteger,   // integer: decimal, hex, octal, binary, negative as two's complement
  kFloat,     // real: 0f..., 0d... or a decimal literal
  kSpecial,   // name: "%tid.x", "%laneid", "WARP_SZ", "%clusterid.y", ...; any undeclared name that begins
              // with %
  kVariable,  // variable (index into Function::variables or, when is_global, name of a module variable) +
              // offset
  kFunction,  // name: a function as the target of call, or its address
  kAddress,   // [base + offset]: base in `elements[0]` (register, variable or integer; its own offset is 0),
              // the offset in `integer`; what follows a comma in elements[1..], one each: [map, {c0, c1}] is
              // {map, kVector{c0, c1}}
  kVector,    // {a, b, c, d}: elements; for call: the parenthesised lists
  kPair,      // p|q: elements[0], elements[1]
  kLabel,     // label
  kSink,      // _
};

struct Operand {
  OperandKind kind = OperandKind::kSink;
  bool negated = false;    // !p, or -r where the syntax allows a negated register
  bool is_global = false;  // kVariable: a variable of the module, found by name
  int reg = -1;            // index into Function::registers
  int variable = -1;       // index into Function::variables (shared, local, param) when not is_global
  int label = -1;          // index into Function::labels
  int lane = -1;       // .b0 .. .b3, .h0, .h1 of a register, -1 for the whole; lanes of .v2/.v4 registers are
                       // registers of their own
  char lane_unit = 0;  // 'b' or 'h' where lane >= 0
  uint64_t integer = 0;  // kInteger value; kVariable and kAddress: byte offset (two's complement)
  double real = 0;       // kFloat
  bool is_single =
      false;  // kFloat written as 0f........: `integer` holds its 32 bits; else the 64 bits of a double
  std::string_view name;  // kSpecial, kFunction, global kVariable: into the module's text
  std::vector<Operand> elements;
};

struct Instruction {
  std::string_view opcode;              // "ld.shared.v4.f32", into the module's text
  std::vector<std::string_view> parts;  // {"ld", "shared", "v4", "f32"}; "::" stays inside a part
  int guard = -1;                       // register of @p, -1 for none
  bool guard_negated = false;           // @!p
  std::vector<Operand> operands;        // for call always three: {results}, function, {arguments}, both lists
                                        // possibly empty; then the prototype or table (kLabel) if any
  Location loc;

  std::string_view mnemonic() const { return parts[0]; }
  bool has(std::string_view modifier) const {
    for (size_t i = 1; i < parts.size(); ++i)
      if (parts[i] == modifier) return true;
    return false;
  }
};

struct Label {
  std::string name;
  int at = -1;  // index into Function::body of the instruction that follows (body.size() at the end)
  std::vector<int> targets;  // `L: .branchtargets A, B;` (labels), for brx.idx
};

struct Function {
  std::string name;
  bool is_entry = false;
  bool is_declaration = false;  // `.extern .func vprintf`
  std::vector<Variable>
      results;  // .param space; register results and parameters are given .param variables too
  std::vector<Variable> parameters;       // in order; their offsets follow from size and align
  std::array<int, 3> max_threads{};       // .maxntid, 0 where not given
  std::array<int, 3> required_threads{};  // .reqntid
  std::array<int, 3> required_cluster{};  // .reqnctapercluster
  bool explicit_cluster = false;
  int min_ctas = 0;       // .minnctapersm
  int max_registers = 0;  // .maxnreg
  Location loc;

  // Filled by parse_body.
  bool parsed = false;
  std::vector<Register> registers;  // of all nested scopes, shadowed names resolved
  std::vector<Variable> variables;  // .shared, .local and .param variables of the body, and the parameters
                                    // first (parameters[i] is variables[i], then results)
  std::vector<Label> labels;
  std::vector<Instruction> body;

  std::string_view text;  // "{ ... }", into the module's text
  int text_line = 0;      // line of its first character
};

struct Module {
  std::shared_ptr<const std::string> text;  // every string_view above points into it
  int version = 0;                          // 90 for ".version 9.0"
  std::string target;                       // "sm_90a"
  int address_size = 64;
  std::unordered_map<int, std::string> files;  // .file
  std::vector<Variable> variables;             // .global, .const and module-scope .shared
  std::vector<Function> functions;             // definitions and declarations, in order
  // By name: the definition where there is one, else a declaration; an .alias leads to what it stands for.
  std::unordered_map<std::string_view, int> function_index, variable_index;

  const Function* find(std::string_view name) const;
};

// The declarations of a module; bodies are only delimited. Throws ParseError; never reads past the text,
// never recurses deeper than a fixed bound, takes time linear in the text.
std::unique_ptr<Module> parse_module(std::string text);
// The body of one function, once. Throws ParseError.
void parse_body(const Module& module, Function& function);

}  // namespace ptxsim::ptx
