#include "ptx/module.h"

#include <utility>

namespace ptxsim::ptx {

int size_of(Type type) {
  switch (type) {
    case Type::kNone: return 0;
    case Type::kPred: case Type::kB8: case Type::kU8: case Type::kS8: return 1;
    case Type::kB16: case Type::kU16: case Type::kS16: case Type::kF16: case Type::kBf16: return 2;
    case Type::kB32: case Type::kU32: case Type::kS32: case Type::kF16x2: case Type::kBf16x2: case Type::kF32:
    case Type::kTf32: return 4;
    case Type::kB64: case Type::kU64: case Type::kS64: case Type::kF64: return 8;
    case Type::kB128: return 16;
  }
  return 0;
}

Type type_named(std::string_view word) {
  constexpr std::pair<std::string_view, Type> kTypes[] = {
      {"b32", Type::kB32},     {"pred", Type::kPred},   {"b64", Type::kB64},       {"f32", Type::kF32},
      {"u32", Type::kU32},     {"u64", Type::kU64},     {"b16", Type::kB16},       {"s32", Type::kS32},
      {"s64", Type::kS64},     {"f64", Type::kF64},     {"b8", Type::kB8},         {"u16", Type::kU16},
      {"u8", Type::kU8},       {"s8", Type::kS8},       {"s16", Type::kS16},       {"b128", Type::kB128},
      {"f16", Type::kF16},     {"f16x2", Type::kF16x2}, {"bf16", Type::kBf16},     {"bf16x2", Type::kBf16x2},
      {"tf32", Type::kTf32},
  };
  for (const auto& [name, type] : kTypes) {
    if (name == word) return type;
  }
  return Type::kNone;
}

const Function* Module::find(std::string_view name) const {
  const auto found = function_index.find(name);
  return found == function_index.end() ? nullptr : &functions[found->second];
}

}  // namespace ptxsim::ptx
