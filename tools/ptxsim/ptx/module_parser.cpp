#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ptx/constant.h"
#include "ptx/declaration.h"
#include "ptx/initializer.h"
#include "ptx/lexer.h"
#include "ptx/module.h"

namespace ptxsim::ptx {
namespace {

constexpr uint64_t kMaxInt = 0x7fffffff;
constexpr size_t kMaxText = size_t{1} << 30;  // lines and indices are ints

class ModuleParser {
 public:
  explicit ModuleParser(std::string text) : module_(std::make_unique<Module>()) {
    if (text.size() > kMaxText) throw ParseError(1, "PTX of more than 1 GiB");
    // Images are padded with zeros.
    while (!text.empty() && text.back() == '\0') text.pop_back();
    init_budget_ = (uint64_t{16} << 20) + 16 * text.size();
    module_->text = std::make_shared<const std::string>(std::move(text));
  }

  std::unique_ptr<Module> run() {
    Lexer lexer(*module_->text, 1);
    lexer_ = &lexer;
    header();
    while (!lexer.at_end()) directive();
    for (const auto& [alias, target] : aliases_)
      module_->function_index[alias] = module_->function_index.at(target);
    return std::move(module_);
  }

 private:
  // .version 9.0  .target sm_90a, debug  .address_size 64
  void header() {
    if (lexer_->dotted() != "version") lexer_->fail("PTX begins with .version");
    const Constant version = parse_literal(*lexer_);
    if (!version.is_float || !(version.real >= 1 && version.real < 1000))
      lexer_->fail("a malformed .version");
    module_->version = static_cast<int>(version.real * 10 + 0.5);
    if (lexer_->dotted() != "target") lexer_->fail(".target does not follow .version");
    module_->target = lexer_->word();
    while (lexer_->accept(',')) lexer_->word();
  }

  void directive() {
    const int line = lexer_->line();
    bool is_extern = false;
    uint64_t align = 0;
    while (true) {
      const std::string_view word = lexer_->dotted();
      if (word.empty()) lexer_->expected("a directive");
      if (word == "visible" || word == "weak" || word == "common") continue;
      if (word == "extern") {
        is_extern = true;
      } else if (word == "align") {
        align = lexer_->integer(kMaxInt);
      } else if (word == "func" || word == "entry") {
        return function(line, word == "entry");
      } else if (const Space space = space_named(word); space != Space::kNone) {
        return variables(space, is_extern, align);
      } else {
        return other(word);
      }
    }
  }

  void other(std::string_view word) {
    if (word == "address_size") {
      module_->address_size = static_cast<int>(lexer_->integer(64));
      if (module_->address_size != 64) lexer_->fail("only .address_size 64 is supported");
    } else if (word == "file") {
      const int index = static_cast<int>(lexer_->integer(kMaxInt));
      module_->files[index] = lexer_->quoted();
      while (lexer_->accept(',')) lexer_->integer(~uint64_t{0});  // time and size of the file
    } else if (word == "section") {
      if (lexer_->dotted().empty()) lexer_->expected("the name of a section");
      lexer_->braced();
    } else if (word == "pragma") {
      pragma();
    } else if (word == "alias") {
      alias();
    } else {
      lexer_->fail("unknown directive .{}", word);
    }
  }

  void pragma() {
    do lexer_->quoted();
    while (lexer_->accept(','));
    lexer_->expect(';');
  }

  void alias() {
    const std::string_view name = lexer_->word();
    lexer_->expect(',');
    const std::string_view target = lexer_->word();
    if (!module_->find(target)) lexer_->fail(".alias of '{}', which is not declared", target);
    aliases_.emplace_back(name, target);
    lexer_->expect(';');
  }

  void variables(Space space, bool is_extern, uint64_t align) {
    if (space != Space::kGlobal && space != Space::kConst && space != Space::kShared) {
      lexer_->fail("a variable of this space outside of functions");
    }
    DeclaredType type = parse_declared_type(*lexer_);
    if (align != 0) type.align = align;
    do {
      Declarator declarator = parse_declarator(*lexer_, space, type);
      declarator.variable.is_extern = is_extern;
      if (lexer_->peek() == '<') lexer_->fail("a parameterised name outside of .reg");
      if (lexer_->accept('=')) {
        if (is_extern || space == Space::kShared) lexer_->fail("an initialiser where none is allowed");
        parse_initializer(*lexer_, *module_, declarator, init_budget_);
      }
      if (declarator.variable.bytes == 0 && !is_extern) {
        lexer_->fail("the variable '{}' has no size", declarator.variable.name);
      }
      add(std::move(declarator));
    } while (lexer_->accept(','));
    lexer_->expect(';');
  }

  // A definition takes the place of an earlier .extern declaration.
  void add(Declarator declarator) {
    const auto [at, fresh] = module_->variable_index.try_emplace(declarator.name, module_->variables.size());
    if (fresh) {
      module_->variables.push_back(std::move(declarator.variable));
      return;
    }
    Variable& known = module_->variables[at->second];
    if (!known.is_extern && !declarator.variable.is_extern) lexer_->fail("'{}' is defined twice", known.name);
    if (known.is_extern) known = std::move(declarator.variable);
  }

  void function(int line, bool is_entry) {
    Function function;
    function.is_entry = is_entry;
    function.loc.ptx_line = line;
    if (lexer_->peek() == '.') {
      if (lexer_->dotted() != "attribute") lexer_->expected("the name of a function");
      lexer_->skip_parenthesised();
    }
    if (!is_entry && lexer_->peek() == '(') function.results = parse_parameters(*lexer_);
    const std::string_view name = lexer_->word();
    function.name = name;
    if (lexer_->peek() == '(') function.parameters = parse_parameters(*lexer_);
    while (lexer_->peek() == '.') tuning(function);
    if (lexer_->accept(';')) {
      function.is_declaration = true;
    } else {
      function.text_line = lexer_->line();
      function.text = lexer_->braced();
    }
    add(name, std::move(function));
  }

  void add(std::string_view name, Function function) {
    const int index = static_cast<int>(module_->functions.size());
    const auto [at, fresh] = module_->function_index.try_emplace(name, index);
    if (!fresh && !function.is_declaration) {
      if (!module_->functions[at->second].is_declaration) {
        throw ParseError(function.loc.ptx_line, fmt::format("'{}' is defined twice", function.name));
      }
      at->second = index;
    }
    module_->functions.push_back(std::move(function));
  }

  // One directive between the parameters and the body.
  void tuning(Function& function) {
    const std::string_view word = lexer_->dotted();
    if (word == "maxntid") {
      function.max_threads = triple();
    } else if (word == "reqntid") {
      function.required_threads = triple();
    } else if (word == "reqnctapercluster") {
      function.required_cluster = triple();
    } else if (word == "minnctapersm") {
      function.min_ctas = static_cast<int>(lexer_->integer(kMaxInt));
    } else if (word == "maxnreg") {
      function.max_registers = static_cast<int>(lexer_->integer(kMaxInt));
    } else if (word == "maxclusterrank" || word == "maxnctapersm" || word == "abi_preserve" ||
               word == "abi_preserve_control") {
      lexer_->integer(kMaxInt);
    } else if (word == "explicitcluster") {
      function.explicit_cluster = true;
    } else if (word == "pragma") {
      pragma();
    } else if (word != "noreturn" && word != "blocksareclusters") {
      lexer_->fail("unknown directive .{} of a function", word);
    }
  }

  // One to three numbers; those that are left out are 1.
  std::array<int, 3> triple() {
    std::array<int, 3> result{1, 1, 1};
    result[0] = static_cast<int>(lexer_->integer(kMaxInt));
    for (int i = 1; i < 3 && lexer_->accept(','); ++i) result[i] = static_cast<int>(lexer_->integer(kMaxInt));
    return result;
  }

  std::unique_ptr<Module> module_;
  Lexer* lexer_ = nullptr;
  uint64_t init_budget_ = 0;
  std::vector<std::pair<std::string_view, std::string_view>> aliases_;
};

}  // namespace

std::unique_ptr<Module> parse_module(std::string text) { return ModuleParser(std::move(text)).run(); }

}  // namespace ptxsim::ptx
