// Where the reference implementation of tokenizers has another version of Unicode than the libraries here:
// the tokens of a character must not depend on who is newer.
#pragma once

#include <cstdint>
#include <span>

namespace contender {

struct UnicodeRange {
  int32_t first, last;
  int32_t value;
};

// Characters that split patterns there take for another category than PCRE2 10.42 does. value: a character of
// that category, with as many bytes, that both agree on. In order.
std::span<const UnicodeRange> unicode_stand_ins();
// Characters that normalization there leaves alone, where utf8proc 2.8 would move or compose them. In order.
std::span<const UnicodeRange> unicode_unnormalized();

}  // namespace contender
