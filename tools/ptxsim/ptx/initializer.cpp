#include "ptx/initializer.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "ptx/constant.h"

namespace ptxsim::ptx {
namespace {

bool is_float_type(Type type) { return type == Type::kF32 || type == Type::kF64; }
bool is_bit_type(Type type) { return type >= Type::kB8 && type <= Type::kB128; }

class Initializer {
 public:
  Initializer(Lexer& lexer, const Module& module, Declarator& declarator, uint64_t& budget)
      : lexer_(lexer),
        module_(module),
        variable_(declarator.variable),
        dimensions_(declarator.dimensions),
        budget_(budget) {
    strides_.assign(dimensions_.size() + 1, size_of(variable_.type));
    for (size_t i = dimensions_.size(); i-- > 0;) {
      strides_[i] = strides_[i + 1] * (dimensions_[i] ? dimensions_[i] : 1);
    }
  }

  void run() {
    const bool open = !dimensions_.empty() && dimensions_[0] == 0;
    level(0, 0);
    if (open) variable_.bytes = open_count_ * strides_[1];
    variable_.init.resize(used_);
    budget_ -= used_;
  }

 private:
  // All elements below dimension `depth`, from byte `offset` on. No deeper than there are dimensions.
  void level(size_t depth, uint64_t offset) {
    if (depth == dimensions_.size()) return value(offset);
    lexer_.expect('{');
    uint64_t count = 0;
    while (lexer_.peek() != '}') {
      if (count > 0) lexer_.expect(',');
      if (dimensions_[depth] != 0 && count == dimensions_[depth])
        lexer_.fail("too many values in an initialiser");
      level(depth + 1, offset + count * strides_[depth + 1]);
      if (++count * strides_[depth + 1] > kMaxVariableBytes) {
        lexer_.fail("the variable '{}' is too large", variable_.name);
      }
    }
    lexer_.expect('}');
    if (dimensions_[depth] == 0) open_count_ = count;
  }

  void value(uint64_t offset) {
    if (lexer_.at_word()) {
      const int word_bytes = size_of(variable_.type);
      if (is_float_type(variable_.type) || (word_bytes != 4 && word_bytes != 8)) {
        lexer_.fail("an address in a variable of this type");
      }
      return address(offset, 0, word_bytes);
    }
    const Constant constant = parse_constant(lexer_);
    if (lexer_.peek() == '(') return masked(offset, constant);
    const int bytes = size_of(variable_.type);
    if (bytes > 8) lexer_.fail("an initialiser of a .b128 variable");
    uint64_t bits = constant.integer;
    if (constant.is_float) {
      if (!is_float_type(variable_.type) && !(is_bit_type(variable_.type) && bytes >= 4)) {
        lexer_.fail("a floating-point number for an integer variable");
      }
      const float narrow = static_cast<float>(constant.real);
      if (bytes == 4 && !constant.is_single) bits = std::bit_cast<uint32_t>(narrow);
      if (bytes == 8 && constant.is_single) bits = std::bit_cast<uint64_t>(constant.real);
    } else if (is_float_type(variable_.type)) {
      lexer_.fail("an integer for a floating-point variable");
    }
    store(offset, bits, bytes);
  }

  // 0xff00(symbol): one byte of an address.
  void masked(uint64_t offset, const Constant& mask) {
    const int shift = mask.integer == 0 ? 0 : std::countr_zero(mask.integer);
    if (mask.is_float || shift % 8 != 0 || mask.integer >> shift != 0xff) {
      lexer_.fail("a mask of an address that does not select one byte");
    }
    if (size_of(variable_.type) != 1) lexer_.fail("a byte of an address in a variable of larger elements");
    lexer_.expect('(');
    address(offset, shift, 1);
    lexer_.expect(')');
  }

  void address(uint64_t offset, int shift, int bytes) {
    AddressInit init{.offset = offset, .bytes = bytes, .shift = shift};
    std::string_view symbol = lexer_.word();
    if (symbol == "generic" && lexer_.accept('(')) {
      init.generic = true;
      symbol = lexer_.word();
      lexer_.expect(')');
    }
    if (!module_.variable_index.contains(symbol) && !module_.function_index.contains(symbol)) {
      lexer_.fail("'{}' in an initialiser is not declared", symbol);
    }
    init.symbol = symbol;
    if (lexer_.peek() == '+' || lexer_.peek() == '-')
      init.addend = static_cast<int64_t>(parse_integer(lexer_));
    store(offset, 0, bytes);
    variable_.addresses.push_back(std::move(init));
  }

  void store(uint64_t offset, uint64_t bits, int bytes) {
    const uint64_t end = offset + bytes;
    std::vector<uint8_t>& init = variable_.init;
    if (end > init.size()) {
      if (end > budget_) lexer_.fail("initialised variables that are too large for this text");
      init.resize(std::max(end, std::min<uint64_t>(2 * init.size(), budget_)));
    }
    used_ = std::max(used_, end);
    std::memcpy(init.data() + offset, &bits, bytes);
  }

  Lexer& lexer_;
  const Module& module_;
  Variable& variable_;
  const std::vector<uint64_t>& dimensions_;
  uint64_t& budget_;
  std::vector<uint64_t> strides_;  // bytes of what dimensions_[i..] describe
  uint64_t open_count_ = 0;
  uint64_t used_ = 0;  // bytes of init; it grows ahead of them
};

}  // namespace

void parse_initializer(Lexer& lexer, const Module& module, Declarator& declarator, uint64_t& budget) {
  Initializer(lexer, module, declarator, budget).run();
}

}  // namespace ptxsim::ptx
