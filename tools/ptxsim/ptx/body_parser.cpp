#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ptx/constant.h"
#include "ptx/declaration.h"
#include "ptx/lexer.h"
#include "ptx/module.h"
#include "ptx/operand_parser.h"
#include "ptx/scope.h"

namespace ptxsim::ptx {
namespace {

constexpr int kMaxScopes = 64;
constexpr uint64_t kMaxInt = 0x7fffffff;

class BodyParser {
 public:
  BodyParser(const Module& module, Function& function)
      : function_(function),
        lexer_(function.text, function.text_line),
        scope_(module, function.text.size()),
        operands_(lexer_, scope_) {}

  // Leaves the function as it was when the text is wrong.
  void run() {
    lexer_.expect('{');
    scope_.enter();
    std::vector<int> parameter_registers = declare_parameters();
    body_.reserve(function_.text.size() / 32);
    while (scope_.depth() > 0) statement();
    scope_.finish();
    for (size_t i = 0; i < parameter_registers.size(); ++i) parameter(i).reg = parameter_registers[i];
    function_.registers = std::move(scope_.registers);
    function_.variables = std::move(scope_.variables);
    function_.labels = std::move(scope_.labels);
    function_.body = std::move(body_);
    function_.loc.file = first_file_;
    function_.loc.line = first_line_;
    function_.parsed = true;
  }

 private:
  Variable& parameter(size_t index) {
    const size_t count = function_.parameters.size();
    return index < count ? function_.parameters[index] : function_.results[index - count];
  }

  // The parameters, then the results, as variables; those in registers also as registers, whose indices are
  // returned.
  std::vector<int> declare_parameters() {
    std::vector<int> result;
    for (size_t i = 0; i < function_.parameters.size() + function_.results.size(); ++i) {
      Variable variable = parameter(i);
      if (variable.space == Space::kReg) {
        variable.reg = scope_.add_register(lexer_, parameter(i).name, variable.type);
        scope_.variables.push_back(std::move(variable));
      } else {
        scope_.add_variable(lexer_, parameter(i).name, std::move(variable));
      }
      result.push_back(scope_.variables.back().reg);
    }
    return result;
  }

  void statement() {
    const char c = lexer_.peek();
    if (lexer_.at_word() || c == '@') {
      instruction_or_label();
    } else if (c == '.') {
      directive();
    } else if (c == '{') {
      if (scope_.depth() == kMaxScopes) lexer_.fail("scopes nested too deeply");
      lexer_.advance(1);
      scope_.enter();
    } else if (c == '}') {
      scope_.leave();
      lexer_.advance(1);
    } else {
      lexer_.expected("an instruction");
    }
  }

  void instruction_or_label() {
    Instruction in;
    in.loc = {lexer_.line(), file_, line_};
    if (lexer_.accept('@')) guard(in);
    const std::string_view first = lexer_.word();
    if (lexer_.peek() == ':' && lexer_.peek(1) != ':' && in.guard < 0) {
      lexer_.advance(1);
      return label(first);
    }
    opcode(first, in);
    if (first == "call") {
      operands_.call(in);
    } else {
      operands_.list(in);
    }
    lexer_.expect(';');
    body_.push_back(std::move(in));
  }

  void guard(Instruction& in) {
    in.guard_negated = lexer_.accept('!');
    const std::string_view name = lexer_.word();
    const Binding* binding = scope_.find(name);
    if (!binding || binding->kind != NameKind::kRegister ||
        scope_.registers[binding->index].type != Type::kPred) {
      lexer_.fail("the guard '{}' is no predicate", name);
    }
    in.guard = binding->index;
  }

  // "ld.shared::cluster.v4.f32"; blanks are allowed before each dot.
  void opcode(std::string_view first, Instruction& in) {
    parts_.clear();
    parts_.push_back(first);
    while (lexer_.peek() == '.') {
      const std::string_view part = lexer_.dotted();
      if (part.empty()) lexer_.expected("a modifier");
      parts_.push_back(part);
    }
    const char* end = parts_.back().data() + parts_.back().size();
    in.opcode = {first.data(), static_cast<size_t>(end - first.data())};
    in.parts.assign(parts_.begin(), parts_.end());
  }

  void label(std::string_view name) {
    const int index = scope_.add_label(lexer_, name, static_cast<int>(body_.size()));
    if (lexer_.peek() != '.') return;
    const Lexer before = lexer_;
    const std::string_view word = lexer_.dotted();
    if (word == "branchtargets") {
      do scope_.add_target(lexer_, index, lexer_.word());
      while (lexer_.accept(','));
    } else if (word == "calltargets") {
      do scope_.require_function(lexer_, lexer_.word());
      while (lexer_.accept(','));
    } else if (word == "callprototype") {
      prototype();
    } else {
      lexer_ = before;
      return;
    }
    lexer_.expect(';');
  }

  // (.param .b32 _) _ (.param .b64 _, .param .b32 _): calls pass what they pass, so nothing of it is kept.
  void prototype() {
    if (lexer_.peek() == '(') parse_parameters(lexer_);
    lexer_.word();
    if (lexer_.peek() == '(') parse_parameters(lexer_);
    while (lexer_.peek() == '.') {
      const std::string_view word = lexer_.dotted();
      if (word == "abi_preserve" || word == "abi_preserve_control") {
        lexer_.integer(kMaxInt);
      } else if (word != "noreturn") {
        lexer_.fail("unknown directive .{} of a prototype", word);
      }
    }
  }

  void directive() {
    const std::string_view word = lexer_.dotted();
    if (word == "loc") {
      location();
    } else if (word == "reg") {
      registers();
    } else if (const Space space = space_named(word); space != Space::kNone) {
      variables(space, 0);
    } else if (word == "align") {
      const uint64_t align = lexer_.integer(kMaxInt);
      variables(space_named(lexer_.dotted()), align);
    } else if (word == "pragma") {
      do lexer_.quoted();
      while (lexer_.accept(','));
      lexer_.expect(';');
    } else {
      lexer_.fail("unknown directive .{}", word);
    }
  }

  // .loc 1 22 5, function_name $L__info_string3+4, inlined_at 2 388 5
  void location() {
    file_ = static_cast<int>(lexer_.integer(kMaxInt));
    line_ = static_cast<int>(lexer_.integer(kMaxInt));
    lexer_.integer(kMaxInt);
    if (first_line_ == 0) {
      first_file_ = file_;
      first_line_ = line_;
    }
    while (lexer_.accept(',')) {
      const std::string_view word = lexer_.word();
      if (word == "function_name") {
        lexer_.word();
        if (lexer_.accept('+')) lexer_.integer(kMaxInt);
      } else if (word == "inlined_at") {
        for (int i = 0; i < 3; ++i) lexer_.integer(kMaxInt);
      } else {
        lexer_.fail("'{}' in .loc", word);
      }
    }
  }

  // .reg .b32 %r<100>, a;
  void registers() {
    const DeclaredType type = parse_declared_type(lexer_);
    do {
      const std::string_view name = lexer_.word();
      if (lexer_.accept('<')) {
        if (type.lanes > 1) lexer_.fail("a parameterised name of vector registers");
        const int count = static_cast<int>(lexer_.integer(kMaxInt));
        lexer_.expect('>');
        scope_.add_register_range(lexer_, name, type.type, count);
      } else if (type.lanes > 1) {
        scope_.add_register_vector(lexer_, name, type.type, type.lanes);
      } else {
        scope_.add_register(lexer_, name, type.type);
      }
    } while (lexer_.accept(','));
    lexer_.expect(';');
  }

  void variables(Space space, uint64_t align) {
    if (space != Space::kShared && space != Space::kLocal && space != Space::kParam) {
      lexer_.fail("a variable of this space inside a function is not supported");
    }
    DeclaredType type = parse_declared_type(lexer_);
    if (align != 0) type.align = align;
    do {
      Declarator declarator = parse_declarator(lexer_, space, type);
      if (declarator.variable.bytes == 0)
        lexer_.fail("the variable '{}' has no size", declarator.variable.name);
      scope_.add_variable(lexer_, declarator.name, std::move(declarator.variable));
    } while (lexer_.accept(','));
    lexer_.expect(';');
  }

  Function& function_;
  Lexer lexer_;
  FunctionScope scope_;
  OperandParser operands_;
  std::vector<Instruction> body_;
  std::vector<std::string_view> parts_;
  int file_ = 0, line_ = 0;
  int first_file_ = 0, first_line_ = 0;
};

}  // namespace

void parse_body(const Module& module, Function& function) {
  if (function.parsed) return;
  if (function.is_declaration) {
    throw ParseError(function.loc.ptx_line, fmt::format("'{}' is declared but not defined", function.name));
  }
  BodyParser(module, function).run();
}

}  // namespace ptxsim::ptx
