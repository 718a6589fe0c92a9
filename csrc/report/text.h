// Text for people: column widths of UTF-8, compact numbers, bars and sparklines. Pure functions, so that what
// a terminal shows is tested.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace contender {

// Terminal columns: combining marks take 0, CJK and emoji 2, escape sequences and control characters 0, a
// byte that is not UTF-8 one.
int64_t display_width(std::string_view text);
// The longest prefix of at most `columns`; escape sequences are kept whole.
std::string clip_to_width(std::string_view text, int64_t columns);
std::string pad_left(std::string_view text, int64_t columns);   // to the right edge: numbers
std::string pad_right(std::string_view text, int64_t columns);  // to the left edge: words

// Text from a model, made harmless for a terminal: control characters and bytes that are not UTF-8 become
// \xNN. Line ends and tabs stay in `printable`; in `printable_line` they become \n and \t.
std::string printable(std::string_view text);
std::string printable_line(std::string_view text);

// Three significant digits in at most 8 characters: 0.734, 12.3, 4567, 12.3k, 1.23e-3, nan.
std::string compact_number(double value);
// 8.4s, 1:12, 2h05m.
std::string compact_duration(double seconds);

// `cells` columns of eighth blocks, oldest value first; more values than cells are averaged. [low, high] is
// the range drawn; low == high: the range of the values. NaN leaves a blank.
std::string sparkline(std::span<const double> values, int64_t cells, double low = 0, double high = 0);
// `cells` columns, the filled part in eighths of a column, the rest spaces.
std::string eighth_bar(double fraction, int64_t cells);

enum class TextStyle : uint8_t { kPlain, kTerminal };

// One line of the live display, with colours, at most `columns` wide: pieces are left out from the right when
// space is short.
struct ProgressView {
  std::string phase;
  int64_t step = 0;
  int64_t total = 0;  // 0: unknown, no bar
  double elapsed_seconds = 0;
  double remaining_seconds = -1;  // < 0: unknown
  bool finished = false;
  std::string headline;  // key of the history below, empty: none
  std::span<const double> history;
  std::vector<std::pair<std::string, std::string>> extras;  // label, value
};
std::string progress_line(const ProgressView& view, int64_t columns);

// kTerminal: box lines, and the widest columns are cut ("…") until the table fits max_columns. kPlain: ASCII
// around the cells, uncut.
std::string format_table(const std::vector<std::vector<std::string>>& rows, TextStyle style,
                         int64_t max_columns);

}  // namespace contender
