#include "data/bpe_normalize.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/error.h"
#include "data/bpe_unicode.h"

namespace contender {
namespace {

constexpr int32_t kCodePoints = 0x110000;

// Length of the longest beginning of a well-formed character at `s`, and whether it is a whole one.
struct Beginning {
  size_t bytes;
  bool whole;
};

Beginning beginning_of(std::string_view s) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(s[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return {1, true};
  if (first < 0xc2 || first > 0xf4) return {1, false};
  const size_t length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  const uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  const uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  size_t have = 1;
  while (have < length && have < s.size()) {
    const uint8_t b = byte(have);
    if (have == 1 ? b < low || b > high : (b & 0xc0) != 0x80) break;
    ++have;
  }
  return {have, have == length};
}

// Of valid UTF-8.
int32_t code_point(std::string_view text, size_t at, size_t& length) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[at + i]); };
  const uint8_t first = byte(0);
  length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  int32_t c = length == 1 ? first : first & (0x7f >> length);
  for (size_t i = 1; i < length; ++i) c = c << 6 | (byte(i) & 0x3f);
  return c;
}

// Code points that stay as they are and begin anew, whatever stands before them: of combining class 0, their
// own form C, and never the second of a pair that composes.
std::vector<bool> make_stable() {
  std::vector<bool> stable(kCodePoints, true);
  for (int32_t c = 0; c < kCodePoints; ++c) {
    if (c >= 0xac00 && c < 0xac00 + 11172) continue;  // Hangul syllables: made of Jamo, below
    if (c >= 0xd800 && c < 0xe000) continue;
    if (utf8proc_get_property(c)->combining_class != 0) stable[c] = false;
    int32_t parts[8];
    int boundary = 0;
    const auto count = utf8proc_decompose_char(
        c, parts, 8, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &boundary);
    if (count == 1 && parts[0] == c) continue;
    CHECK(count >= 1 && count <= 8, "U+{:04X} has {} parts", c, count);
    for (utf8proc_ssize_t i = 1; i < count; ++i) stable[parts[i]] = false;
    const auto composed = utf8proc_normalize_utf32(
        parts, count, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    if (composed != 1 || parts[0] != c) stable[c] = false;
  }
  for (const UnicodeRange& r : unicode_unnormalized())
    std::fill(stable.begin() + r.first, stable.begin() + r.last + 1, true);
  for (int32_t c = 0x1161; c <= 0x1175; ++c) stable[c] = false;  // Jamo vowels
  for (int32_t c = 0x11a8; c <= 0x11c2; ++c) stable[c] = false;  // Jamo finals
  return stable;
}

bool is_stable(int32_t c) {
  if (c < 0x300) return true;  // below U+0300 everything is its own form C
  static const std::vector<bool> stable = make_stable();
  return stable[c];
}

bool unnormalized(int32_t c) {
  const auto ranges = unicode_unnormalized();
  const auto next = std::upper_bound(ranges.begin(), ranges.end(), c,
                                     [](int32_t x, const UnicodeRange& r) { return x < r.first; });
  return next != ranges.begin() && c <= (next - 1)->last;
}

// Form C of text[begin, end), which stable characters or ends surround.
void append_composed(std::string_view text, size_t begin, size_t end, std::string& out) {
  std::vector<int32_t> parts;
  size_t bytes_before = 0;  // of a character that keeps out of it
  for (size_t at = begin, length = 0; at < end; at += length) {
    const int32_t c = code_point(text, at, length);
    if (unnormalized(c)) {  // it is stable, so it is the first
      bytes_before = length;
      continue;
    }
    int32_t of_one[8];
    int boundary = 0;
    const auto count = utf8proc_decompose_char(
        c, of_one, 8, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &boundary);
    parts.insert(parts.end(), of_one, of_one + count);
  }
  out.append(text, begin, bytes_before);
  const auto combining = [](int32_t c) { return utf8proc_get_property(c)->combining_class; };
  for (size_t i = 0; i < parts.size();) {  // canonical order: marks by their class, between starters
    size_t j = i;
    while (j < parts.size() && combining(parts[j]) != 0) ++j;
    std::stable_sort(parts.begin() + static_cast<int64_t>(i), parts.begin() + static_cast<int64_t>(j),
                     [&](int32_t a, int32_t b) { return combining(a) < combining(b); });
    i = j + 1;
  }
  const auto count =
      utf8proc_normalize_utf32(parts.data(), static_cast<utf8proc_ssize_t>(parts.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    uint8_t bytes[4];
    out.append(reinterpret_cast<const char*>(bytes),
               static_cast<size_t>(utf8proc_encode_char(parts[static_cast<size_t>(i)], bytes)));
  }
}

}  // namespace

size_t append_utf8(std::string_view bytes, bool more, std::string& text) {
  size_t copied = 0, at = 0;
  while (at < bytes.size()) {
    const Beginning b = beginning_of(bytes.substr(at));
    if (!b.whole) {
      if (more && at + b.bytes == bytes.size() && static_cast<uint8_t>(bytes[at]) >= 0xc2 &&
          static_cast<uint8_t>(bytes[at]) <= 0xf4) {
        break;
      }
      text.append(bytes, copied, at - copied);
      text += "\xef\xbf\xbd";
      copied = at + b.bytes;
    }
    at += b.bytes;
  }
  text.append(bytes, copied, at - copied);
  return at;
}

std::string_view normalize_nfc(std::string_view text, std::string& buffer, std::string& marks) {
  bool changed = false;
  std::string moved;            // the marks of `buffer`
  size_t copied = 0, last = 0;  // `last`: where the character before `at` begins
  for (size_t at = 0, length = 0; at < text.size();) {
    if (static_cast<uint8_t>(text[at]) < 0xcc || is_stable(code_point(text, at, length))) {
      last = at;
      const uint8_t first = static_cast<uint8_t>(text[at]);
      at += first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
      continue;
    }
    size_t end = at;
    while (end < text.size() && !is_stable(code_point(text, end, length))) end += length;
    if (!changed) buffer.clear();
    changed = true;
    buffer.append(text, copied, last - copied);
    append_composed(text, last, end, buffer);
    if (!marks.empty()) {
      moved.append(marks, copied, last - copied);
      moved.resize(buffer.size(), *std::max_element(&marks[last], &marks[last] + (end - last)));
    }
    copied = last = at = end;
  }
  if (!changed) return text;
  buffer.append(text, copied);
  if (!marks.empty()) marks = moved.append(marks, copied);
  return buffer;
}

}  // namespace contender
