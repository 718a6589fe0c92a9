// Text before it is split: valid UTF-8, then Unicode's normal form C where the tokenizer asks for it.
#pragma once

#include <string>
#include <string_view>

namespace contender {

// Appends `bytes` with every byte sequence that is not UTF-8 replaced by U+FFFD, one for each longest
// beginning of a character (Unicode 15, section 3.9). Returns the number of bytes read: all of them, or, when
// `more` may follow, less where a character is not complete.
size_t append_utf8(std::string_view bytes, bool more, std::string& text);

// `text`, valid UTF-8, in form C. Returns a view of `text` where it is in that form already, else of
// `buffer`. Time: O(n log n), also for long runs of combining marks. `marks`, one per byte or none at all,
// follow their bytes; what is made of several bytes has the largest of their marks.
std::string_view normalize_nfc(std::string_view text, std::string& buffer, std::string& marks);

}  // namespace contender
