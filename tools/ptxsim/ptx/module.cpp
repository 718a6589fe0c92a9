#include "ptx/module.h"

#include <iterator>

namespace ptxsim::ptx {

namespace {

struct NamedType {
  std::string_view name;
  Type type;
  int bytes;
};
// In the order of the enumeration.
constexpr NamedType kTypes[] = {
    {"", Type::kNone, 0},         {"pred", Type::kPred, 1},   {"b8", Type::kB8, 1},
    {"b16", Type::kB16, 2},       {"b32", Type::kB32, 4},     {"b64", Type::kB64, 8},
    {"b128", Type::kB128, 16},    {"u8", Type::kU8, 1},       {"u16", Type::kU16, 2},
    {"u32", Type::kU32, 4},       {"u64", Type::kU64, 8},     {"s8", Type::kS8, 1},
    {"s16", Type::kS16, 2},       {"s32", Type::kS32, 4},     {"s64", Type::kS64, 8},
    {"f16", Type::kF16, 2},       {"f16x2", Type::kF16x2, 4}, {"bf16", Type::kBf16, 2},
    {"bf16x2", Type::kBf16x2, 4}, {"f32", Type::kF32, 4},     {"tf32", Type::kTf32, 4},
    {"f64", Type::kF64, 8},
};

constexpr bool in_order() {
  for (size_t i = 0; i < std::size(kTypes); ++i) {
    if (static_cast<size_t>(kTypes[i].type) != i) return false;
  }
  return std::size(kTypes) == static_cast<size_t>(Type::kF64) + 1;
}
static_assert(in_order());

}  // namespace

int size_of(Type type) { return kTypes[static_cast<size_t>(type)].bytes; }

Type type_named(std::string_view word) {
  for (const NamedType& named : kTypes) {
    if (named.name == word) return named.type;
  }
  return Type::kNone;
}

const Function* Module::find(std::string_view name) const {
  const auto found = function_index.find(name);
  return found == function_index.end() ? nullptr : &functions[found->second];
}

}  // namespace ptxsim::ptx
