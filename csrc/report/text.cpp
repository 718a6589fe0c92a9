#include "report/text.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

namespace contender {
namespace {

constexpr std::array<std::string_view, 9> kRising = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
constexpr std::array<std::string_view, 9> kGrowing = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"};
// Red to green in the 256-colour cube, even in lightness so that no step of the way shouts.
constexpr std::array<int, 10> kRamp = {167, 173, 179, 215, 221, 185, 149, 113, 77, 41};
constexpr int kNeutralColor = 74;  // steel blue: values that have no good or bad end
constexpr int kTrackColor = 238;
constexpr std::string_view kReset = "\x1b[0m";
constexpr std::string_view kDim = "\x1b[2m";
constexpr std::string_view kBold = "\x1b[1m";

// One unit of output: an escape sequence, a character, or a byte that is not UTF-8.
struct Unit {
  size_t bytes;
  int columns;
};

Unit next_unit(std::string_view text) {
  if (text[0] == '\x1b' && text.size() > 1 && text[1] == '[') {
    size_t end = 2;
    while (end < text.size() && (text[end] < '@' || text[end] > '~')) ++end;
    return {std::min(end + 1, text.size()), 0};
  }
  utf8proc_int32_t code = 0;
  const auto size = static_cast<utf8proc_ssize_t>(std::min<size_t>(text.size(), 4));
  const utf8proc_ssize_t bytes =
      utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), size, &code);
  if (bytes <= 0) return {1, 1};
  return {static_cast<size_t>(bytes), code < 0x20 || code == 0x7F ? 0 : utf8proc_charwidth(code)};
}

std::string repeat(std::string_view piece, int64_t times) {
  std::string out;
  for (int64_t i = 0; i < times; ++i) out += piece;
  return out;
}

std::string colored(int color, std::string_view text) {
  return fmt::format("\x1b[38;5;{}m{}{}", color, text, kReset);
}

int ramp_color(double share) {
  const double place =
      std::clamp(std::isnan(share) ? 0.0 : share, 0.0, 1.0) * static_cast<double>(kRamp.size());
  return kRamp[std::min(kRamp.size() - 1, static_cast<size_t>(place))];
}

bool is_share(std::string_view key) { return key.find("accuracy") != std::string_view::npos; }

// Mean of the values that fall into each cell; fewer values than cells: one cell each.
std::vector<double> resample(std::span<const double> values, int64_t cells) {
  const auto n = static_cast<int64_t>(values.size());
  if (n <= cells) return {values.begin(), values.end()};
  std::vector<double> out(static_cast<size_t>(cells));
  for (int64_t c = 0; c < cells; ++c) {
    const int64_t begin = c * n / cells;
    const int64_t end = (c + 1) * n / cells;
    double sum = 0;
    for (int64_t i = begin; i < end; ++i) sum += values[static_cast<size_t>(i)];
    out[static_cast<size_t>(c)] = sum / static_cast<double>(end - begin);
  }
  return out;
}

std::string bar_piece(const ProgressView& view, int64_t cells, int color) {
  const double fraction = static_cast<double>(view.step) / static_cast<double>(view.total);
  return fmt::format("\x1b[38;5;{};48;5;{}m{}{}", color, kTrackColor, eighth_bar(fraction, cells), kReset);
}

// The history in colour; accuracies on the fixed range [0, 1], so that height means the same from start to
// end.
std::string history_piece(const ProgressView& view, int64_t cells) {
  const std::vector<double> values = resample(view.history, cells);
  if (!is_share(view.headline)) return colored(kNeutralColor, sparkline(values, cells));
  std::string out;
  for (const double v : values) out += colored(ramp_color(v), sparkline(std::span(&v, 1), 1, 0, 1));
  return out;
}

std::string plain_table(const std::vector<std::vector<std::string>>& rows, const std::vector<int64_t>& widths,
                        const std::vector<bool>& numeric) {
  std::string out;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::string line;
    for (size_t c = 0; c < widths.size(); ++c) {
      const std::string_view cell = c < rows[r].size() ? std::string_view(rows[r][c]) : "";
      line += numeric[c] ? pad_left(cell, widths[c]) : pad_right(cell, widths[c]);
      line += "  ";
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
    if (r > 0) continue;
    for (size_t c = 0; c < widths.size(); ++c)
      out += repeat("-", widths[c]) + (c + 1 < widths.size() ? "  " : "\n");
  }
  return out;
}

std::string box_table(const std::vector<std::vector<std::string>>& rows, const std::vector<int64_t>& widths,
                      const std::vector<bool>& numeric) {
  const auto rule = [&](std::string_view left, std::string_view middle, std::string_view right) {
    std::string line(left);
    for (size_t c = 0; c < widths.size(); ++c) {
      line += repeat("─", widths[c] + 2);
      line += c + 1 < widths.size() ? middle : right;
    }
    return fmt::format("{}{}{}\n", kDim, line, kReset);
  };
  const std::string bar = fmt::format("{}│{}", kDim, kReset);
  std::string out = rule("╭", "┬", "╮");
  for (size_t r = 0; r < rows.size(); ++r) {
    out += bar;
    for (size_t c = 0; c < widths.size(); ++c) {
      const std::string_view cell = c < rows[r].size() ? std::string_view(rows[r][c]) : "";
      const std::string padded = numeric[c] ? pad_left(cell, widths[c]) : pad_right(cell, widths[c]);
      out +=
          r == 0 ? fmt::format(" {}{}{} {}", kBold, padded, kReset, bar) : fmt::format(" {} {}", padded, bar);
    }
    out += "\n";
    if (r == 0) out += rule("├", "┼", "┤");
  }
  return out + rule("╰", "┴", "╯");
}

// "0.91", "+12.3k", "95%", "$0.10", "1:12", "3/8".
bool looks_numeric(std::string_view cell) {
  return cell.find_first_not_of("0123456789.,+-$%:/xekMGTshm ") == std::string_view::npos &&
         cell.find_first_of("0123456789") != std::string_view::npos;
}

// One line per cell: line breaks and other control characters become spaces.
std::string flat(const std::string& cell) {
  std::string out = cell;
  std::replace_if(
      out.begin(), out.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
  return out;
}

std::string fit_cell(const std::string& cell, int64_t columns) {
  if (display_width(cell) <= columns) return cell;
  return clip_to_width(cell, columns - 1) + "…";
}

}  // namespace

int64_t display_width(std::string_view text) {
  int64_t columns = 0;
  while (!text.empty()) {
    const Unit unit = next_unit(text);
    columns += unit.columns;
    text.remove_prefix(unit.bytes);
  }
  return columns;
}

std::string clip_to_width(std::string_view text, int64_t columns) {
  std::string out;
  int64_t used = 0;
  bool full = false;
  while (!text.empty()) {
    const Unit unit = next_unit(text);
    full = full || used + unit.columns > columns;
    // Past the edge only escape sequences pass, so that colours are still switched off.
    if (!full || text[0] == '\x1b') out += text.substr(0, unit.bytes);
    used += full ? 0 : unit.columns;
    text.remove_prefix(unit.bytes);
  }
  return out;
}

std::string pad_left(std::string_view text, int64_t columns) {
  return repeat(" ", columns - display_width(text)) + std::string(text);
}

std::string pad_right(std::string_view text, int64_t columns) {
  return std::string(text) + repeat(" ", columns - display_width(text));
}

namespace {

std::string escaped(std::string_view text, bool one_line) {
  std::string out;
  while (!text.empty()) {
    utf8proc_int32_t code = 0;
    const auto size = static_cast<utf8proc_ssize_t>(std::min<size_t>(text.size(), 4));
    const utf8proc_ssize_t n =
        utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), size, &code);
    const size_t bytes = n > 0 ? static_cast<size_t>(n) : 1;
    const bool control = n <= 0 || code < 0x20 || (code >= 0x7F && code < 0xA0);
    if (code == '\n' || code == '\t') {
      out += one_line ? (code == '\n' ? "\\n" : "\\t") : std::string(1, text[0]);
    } else if (control) {
      for (const char c : text.substr(0, bytes)) out += fmt::format("\\x{:02X}", static_cast<uint8_t>(c));
    } else {
      out += text.substr(0, bytes);
    }
    text.remove_prefix(bytes);
  }
  return out;
}

}  // namespace

std::string printable(std::string_view text) { return escaped(text, /*one_line=*/false); }
std::string printable_line(std::string_view text) { return escaped(text, /*one_line=*/true); }

std::string compact_number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  const double size = std::abs(value);
  if (size == 0) return "0";
  if (size >= 9.995e2 && size < 9999.5) return fmt::format("{:.0f}", value);
  if (size < 9.995e-3 || size >= 9.995e14) {
    // 1.23e-05 -> 1.23e-5
    std::string text = fmt::format("{:.2e}", value);
    const size_t digits = text.find('e') + 2;
    if (text[digits] == '0') text.erase(digits, 1);
    if (text[digits - 1] == '+') text.erase(digits - 1, 1);
    return text;
  }
  constexpr std::string_view units = " kMGT";
  size_t unit = 0;
  double scaled = value;
  for (; std::abs(scaled) >= 999.5; scaled /= 1000) ++unit;
  const double s = std::abs(scaled);
  const int decimals = s >= 99.95 ? 0 : s >= 9.995 ? 1 : s >= 0.9995 ? 2 : s >= 0.09995 ? 3 : 4;
  std::string text = fmt::format("{:.{}f}", scaled, decimals);
  if (unit > 0) text += units[unit];
  return text;
}

std::string compact_duration(double seconds) {
  if (!(seconds >= 0)) return "?";
  if (seconds < 9.95) return fmt::format("{:.1f}s", seconds);
  const auto s = static_cast<int64_t>(std::min(seconds + 0.5, 1e12));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  return fmt::format("{}h{:02}m", s / 3600, s % 3600 / 60);
}

std::string sparkline(std::span<const double> values, int64_t cells, double low, double high) {
  const std::vector<double> points = resample(values, cells);
  if (low == high) {
    low = INFINITY;
    high = -INFINITY;
    for (const double p : points) {
      if (!std::isfinite(p)) continue;
      low = std::min(low, p);
      high = std::max(high, p);
    }
  }
  std::string out;
  for (const double p : points) {
    if (std::isnan(p)) {
      out += " ";
      continue;
    }
    const double share = high > low ? std::clamp((p - low) / (high - low), 0.0, 1.0) : 0.5;
    out += kRising[static_cast<size_t>(1 + std::lround(share * 7))];
  }
  return out;
}

std::string eighth_bar(double fraction, int64_t cells) {
  const double safe = std::isnan(fraction) ? 0 : std::clamp(fraction, 0.0, 1.0);
  // Rounded down: a full bar means done.
  const auto eighths = static_cast<int64_t>(safe * static_cast<double>(8 * cells));
  std::string out = repeat(kGrowing[8], eighths / 8);
  if (eighths / 8 < cells) out += kGrowing[static_cast<size_t>(eighths % 8)];
  return pad_right(out, cells);
}

std::string progress_line(const ProgressView& view, int64_t columns) {
  const bool has_headline = !view.headline.empty() && !view.history.empty();
  const double value = has_headline ? view.history.back() : 0;
  const int color = has_headline && is_share(view.headline) ? ramp_color(value) : kNeutralColor;
  const std::string step =
      view.total > 0 ? fmt::format("{}/{}",
                                   pad_left(std::to_string(view.step),
                                            static_cast<int64_t>(std::to_string(view.total).size())),
                                   view.total)
                     : std::to_string(view.step);
  const std::string time = view.finished                 ? compact_duration(view.elapsed_seconds)
                           : view.remaining_seconds >= 0 ? compact_duration(view.remaining_seconds) + " left"
                                                         : "";

  std::string line = fmt::format(
      "{}{}{} ", kBold,
      pad_right(clip_to_width(view.phase, 16), std::min<int64_t>(16, std::max<int64_t>(10, columns / 7))),
      kReset);
  if (view.total > 0 && columns >= 40)
    line += bar_piece(view, std::clamp<int64_t>(columns / 6, 8, 40), color) + " ";
  line += step;
  if (columns >= 50) line += fmt::format(" {}{}{}", kDim, pad_left(time, 10), kReset);
  if (has_headline) {
    line += fmt::format("  {}{}{} \x1b[1;38;5;{}m{}{}", kDim, view.headline, kReset, color,
                        pad_right(compact_number(value), 7), kReset);
    const int64_t cells =
        std::min<int64_t>(columns - display_width(line) - 1, std::max<int64_t>(columns / 6, 16));
    if (cells >= 4) line += " " + pad_right(history_piece(view, cells), cells);
  }
  for (const auto& [label, text] : view.extras) {
    const std::string piece = fmt::format("  {}{}{} {}", kDim, label, kReset, pad_right(text, 7));
    if (display_width(line) + display_width(piece) > columns) break;
    line += piece;
  }
  return clip_to_width(line, columns);
}

std::string format_table(const std::vector<std::vector<std::string>>& rows, TextStyle style,
                         int64_t max_columns) {
  if (rows.empty()) return "";
  std::vector<std::vector<std::string>> cells = rows;
  size_t num_columns = 0;
  for (const auto& row : rows) num_columns = std::max(num_columns, row.size());
  std::vector<int64_t> widths(num_columns, 0);
  std::vector<bool> numeric(num_columns, rows.size() > 1);
  for (size_t r = 0; r < cells.size(); ++r) {
    for (size_t c = 0; c < cells[r].size(); ++c) {
      cells[r][c] = flat(cells[r][c]);
      widths[c] = std::max(widths[c], display_width(cells[r][c]));
      if (r > 0 && !cells[r][c].empty() && !looks_numeric(cells[r][c])) numeric[c] = false;
    }
  }
  if (style == TextStyle::kPlain) return plain_table(cells, widths, numeric);
  // The widest columns give way until the box fits.
  int64_t excess =
      std::accumulate(widths.begin(), widths.end(), static_cast<int64_t>(3 * num_columns + 1)) - max_columns;
  for (; excess > 0; --excess) {
    int64_t& widest = *std::max_element(widths.begin(), widths.end());
    if (widest <= 8) break;
    --widest;
  }
  for (auto& row : cells) {
    for (size_t c = 0; c < row.size(); ++c) row[c] = fit_cell(row[c], widths[c]);
  }
  return box_table(cells, widths, numeric);
}

}  // namespace contender
