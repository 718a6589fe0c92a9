// Names with nested scopes: an inner declaration hides the outer one until its scope is left.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace ptxsim::ptx {

enum class NameKind : uint8_t { kRegister, kVariable, kLabel };

struct Binding {
  NameKind kind = NameKind::kRegister;
  int index = -1;
  int count = 0;  // registers name<count>: how many follow `index`; lanes of a vector register
  int depth = 0;  // set by declare
};

class ScopedNames {
 public:
  ScopedNames() : slots_(64) {}

  int depth() const { return static_cast<int>(marks_.size()); }
  void enter() { marks_.push_back(chain_.size()); }
  void leave() {
    for (size_t i = chain_.size(); i > marks_.back(); --i)
      slots_[find_slot(chain_[i - 1].name)].top = chain_[i - 1].hidden;
    chain_.resize(marks_.back());
    marks_.pop_back();
  }

  // False where the innermost scope has the name already.
  bool declare(std::string_view name, Binding binding) {
    if (used_ * 2 >= slots_.size()) grow();
    Slot& slot = slots_[find_slot(name)];
    if (slot.name.data() == nullptr) {
      slot.name = name;
      ++used_;
    }
    binding.depth = depth();
    if (slot.top >= 0 && chain_[slot.top].binding.depth == binding.depth) return false;
    chain_.push_back({name, binding, slot.top});
    slot.top = static_cast<int>(chain_.size()) - 1;
    return true;
  }

  // The innermost declaration, nullptr where there is none. Valid until the next call of declare or leave.
  const Binding* find(std::string_view name) const {
    const Slot& slot = slots_[find_slot(name)];
    return slot.top < 0 ? nullptr : &chain_[slot.top].binding;
  }
  // The innermost declaration of name<count> with more than `number` registers.
  const Binding* find_range(std::string_view name, int number) const {
    int i = slots_[find_slot(name)].top;
    while (i >= 0 && chain_[i].binding.count <= number) i = chain_[i].hidden;
    return i < 0 ? nullptr : &chain_[i].binding;
  }

 private:
  struct Slot {
    std::string_view name;
    int top = -1;  // index into chain_
  };
  struct Declared {
    std::string_view name;
    Binding binding;
    int hidden;  // the declaration that this one hides, -1 for none
  };

  static size_t hash(std::string_view name) {
    uint64_t h = 0x9e3779b97f4a7c15u ^ name.size();
    const char* at = name.data();
    size_t left = name.size();
    for (; left >= 8; at += 8, left -= 8) {
      uint64_t word;
      std::memcpy(&word, at, 8);
      h = mix(h ^ word);
    }
    uint64_t word = 0;
    for (size_t i = 0; i < left; ++i) word = word << 8 | static_cast<uint8_t>(at[i]);
    return mix(h ^ word);
  }
  static uint64_t mix(uint64_t x) {
    x *= 0xff51afd7ed558ccdu;
    return x ^ (x >> 32);
  }

  // Of the name, or the empty one where it would go.
  size_t find_slot(std::string_view name) const {
    const size_t mask = slots_.size() - 1;
    size_t i = hash(name) & mask;
    while (slots_[i].name.data() != nullptr && slots_[i].name != name) i = (i + 1) & mask;
    return i;
  }

  void grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.name.data() != nullptr) slots_[find_slot(slot.name)] = slot;
    }
  }

  std::vector<Slot> slots_;  // a power of two of them
  size_t used_ = 0;
  std::vector<Declared> chain_;
  std::vector<size_t> marks_;  // chain_.size() at the start of each scope
};

}  // namespace ptxsim::ptx
