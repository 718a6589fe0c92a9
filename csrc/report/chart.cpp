#include "report/chart.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "report/text.h"

namespace contender {
namespace {

constexpr int64_t kMaxPoints =
    240;  // per curve; longer ones are averaged, so that a report of 10,000 steps stays small
constexpr int64_t kMaxHover = 80;    // of them answer to the pointer
constexpr int64_t kSmoothFrom = 30;  // points from which a moving average is drawn over the raw curve
constexpr double kLeft = 46, kRight = 14, kTop = 12, kBottom = 24;

struct Frame {
  double width, height, x_max, low, high;
  double px(double x) const { return kLeft + (x_max > 0 ? x / x_max : 0) * (width - kLeft - kRight); }
  double py(double y) const {
    return height - kBottom - (y - low) / (high - low) * (height - kTop - kBottom);
  }
};

struct Points {
  std::vector<double> x, y;
  std::vector<int64_t> band;  // stage of each point: curves are neither joined nor smoothed across stages
};

int64_t band_at(const Chart& chart, double x) {
  const auto n = static_cast<int64_t>(chart.bands.size());
  for (int64_t b = 0; b < n; ++b) {
    if (x <= chart.bands[static_cast<size_t>(b)].end) return b;
  }
  return n - 1;
}

// Bucket means over whole runs of finite points; buckets without one stay a gap.
Points thin_out(const Chart& chart, const ChartSeries& s) {
  const auto n = static_cast<int64_t>(s.x.size());
  const int64_t buckets = s.markers ? n : std::min(n, kMaxPoints);
  Points out;
  for (int64_t b = 0; b < buckets; ++b) {
    double sum = 0;
    int64_t count = 0;
    const int64_t end = (b + 1) * n / buckets;
    for (int64_t i = b * n / buckets; i < end; ++i) {
      const double y = s.y[static_cast<size_t>(i)];
      if (!std::isfinite(y)) continue;
      sum += y;
      ++count;
    }
    out.x.push_back(s.x[static_cast<size_t>(end - 1)]);
    out.band.push_back(band_at(chart, out.x.back()));
    out.y.push_back(count > 0 ? sum / static_cast<double>(count) : NAN);
  }
  return out;
}

// Centred moving average over about 1/20 of the curve.
std::vector<double> smooth(const Points& p) {
  const std::vector<double>& y = p.y;
  const auto n = static_cast<int64_t>(y.size());
  const int64_t half = std::max<int64_t>(1, n / 40);
  std::vector<double> out(y.size(), NAN);
  for (int64_t i = 0; i < n; ++i) {
    double sum = 0;
    int64_t count = 0;
    for (int64_t j = std::max<int64_t>(0, i - half); j <= std::min(n - 1, i + half); ++j) {
      if (p.band[static_cast<size_t>(j)] != p.band[static_cast<size_t>(i)] ||
          !std::isfinite(y[static_cast<size_t>(j)]))
        continue;
      sum += y[static_cast<size_t>(j)];
      ++count;
    }
    if (count > 0 && std::isfinite(y[static_cast<size_t>(i)]))
      out[static_cast<size_t>(i)] = sum / static_cast<double>(count);
  }
  return out;
}

std::string path_of(const Frame& f, const Points& p, const std::vector<double>& y) {
  std::string d;
  bool pen_down = false;
  for (size_t i = 0; i < y.size(); ++i) {
    if (i > 0 && p.band[i] != p.band[i - 1]) pen_down = false;
    if (!std::isfinite(y[i])) {
      pen_down = false;
      continue;
    }
    d += fmt::format("{}{:.1f} {:.1f}", pen_down ? "L" : "M", f.px(p.x[i]), f.py(y[i]));
    pen_down = true;
  }
  return d;
}

Frame make_frame(const Chart& chart) {
  Frame f{chart.wide ? 540.0 : 360.0, chart.wide ? 240.0 : 190.0, chart.x_max, INFINITY, -INFINITY};
  for (const ChartSeries& s : chart.series) {
    for (const double y : thin_out(chart, s).y) {
      if (!std::isfinite(y)) continue;
      f.low = std::min(f.low, y);
      f.high = std::max(f.high, y);
    }
  }
  if (chart.share) {
    f.low = std::min(0.0, f.low);
    f.high = std::max(1.0, f.high);
    return f;
  }
  // A curve near zero, compared with its height, is shown from zero.
  if (f.low > 0 && f.low < 0.5 * f.high) f.low = 0;
  const double room = f.high > f.low ? 0.06 * (f.high - f.low) : std::max(1e-12, 0.1 * std::abs(f.high));
  f.high += room;
  if (f.low != 0) f.low -= room;
  return f;
}

// 0.5, not 0.500: on an axis the digits are all there are.
std::string tick_text(double value) {
  std::string text = compact_number(value);
  const size_t point = text.find('.');
  if (point == std::string::npos) return text;
  const size_t end = std::min(text.find_first_not_of("0123456789.", point), text.size());
  size_t keep = end;
  while (text[keep - 1] == '0') --keep;
  if (text[keep - 1] == '.') --keep;
  return text.erase(keep, end - keep);
}

std::string grid_svg(const Chart& chart, const Frame& f) {
  std::string out;
  const double bottom = f.height - kBottom;
  for (size_t b = 0; b < chart.bands.size(); ++b) {
    const ChartBand& band = chart.bands[b];
    const double left = f.px(band.begin);
    const double width = f.px(band.end) - left;
    if (b % 2 == 0)
      out += fmt::format(R"(<rect class="band" x="{:.1f}" y="{}" width="{:.1f}" height="{:.1f}"/>)", left,
                         kTop, width, bottom - kTop);
    if (chart.bands.size() > 1 && width > 6.0 * static_cast<double>(display_width(band.name)) + 8)
      out += fmt::format(R"(<text class="stage" x="{:.1f}" y="{}">{}</text>)", left + 5, kTop + 11,
                         html_escape(band.name));
  }
  for (const double y : nice_ticks(f.low, f.high, 4)) {
    out += fmt::format(R"(<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>)", kLeft,
                       f.width - kRight, f.py(y));
    out += fmt::format(R"(<text class="ytick" x="{}" y="{:.1f}">{}</text>)", kLeft - 7, f.py(y) + 3.5,
                       tick_text(y));
  }
  for (const double x : nice_ticks(0, f.x_max, chart.wide ? 6 : 4)) {
    out += fmt::format(R"(<text class="xtick" x="{:.1f}" y="{}">{}</text>)", f.px(x), f.height - 8,
                       tick_text(x));
  }
  out += fmt::format(R"(<line class="axis" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>)", kLeft, f.width - kRight,
                     bottom);
  return out;
}

// "rl, step 200": steps count within their stage.
std::string step_text(const Chart& chart, double x) {
  const int64_t b = band_at(chart, x);
  if (b < 0) return fmt::format("step {:.0f}", x);
  const ChartBand& band = chart.bands[static_cast<size_t>(b)];
  return fmt::format("{}, step {:.0f}", html_escape(band.name), x - band.begin);
}

// A strip as wide as the distance to the neighbours that shows its point while the pointer is over it.
std::string hover_svg(const Chart& chart, const Frame& f, const ChartSeries& s, const Points& p,
                      size_t index) {
  const auto n = static_cast<int64_t>(p.x.size());
  const int64_t stride = (n + kMaxHover - 1) / kMaxHover;
  const auto px = [&](int64_t i) { return f.px(p.x[static_cast<size_t>(i)]); };
  std::string out;
  for (int64_t i = stride / 2; i < n; i += stride) {
    const double y = p.y[static_cast<size_t>(i)];
    if (!std::isfinite(y)) continue;
    const double left = i >= stride ? (px(i - stride) + px(i)) / 2 : kLeft;
    const double right = i + stride < n ? (px(i + stride) + px(i)) / 2 : f.width - kRight;
    out += fmt::format(
        R"(<g class="pt"><rect x="{:.1f}" y="{}" width="{:.1f}" height="{}"/><circle class="s{}" cx="{:.1f}" cy="{:.1f}" r="3"/><title>{}
{} {}</title></g>)",
        left, kTop, std::max(0.5, right - left), f.height - kTop - kBottom, index, px(i), f.py(y),
        step_text(chart, p.x[static_cast<size_t>(i)]), html_escape(s.name), compact_number(y));
  }
  return out;
}

std::string markers_svg(const Chart& chart, const Frame& f, const ChartSeries& s, size_t index) {
  std::string out =
      fmt::format(R"(<path class="join s{}" d="{}"/>)", index, path_of(f, thin_out(chart, s), s.y));
  for (size_t i = 0; i < s.x.size(); ++i) {
    if (!std::isfinite(s.y[i])) continue;
    out += fmt::format(
        R"(<circle class="mark s{}" cx="{:.1f}" cy="{:.1f}" r="3.5"><title>{}
{} {}</title></circle>)",
        index, f.px(s.x[i]), f.py(s.y[i]), step_text(chart, s.x[i]), html_escape(s.name),
        compact_number(s.y[i]));
  }
  return out;
}

std::string legend_html(const Chart& chart) {
  if (chart.series.size() < 2) return "";
  std::string out = "<span class=\"legend\">";
  for (size_t i = 0; i < chart.series.size(); ++i)
    out += fmt::format(R"(<i class="key s{}"></i>{} )", i % 3, html_escape(chart.series[i].name));
  return out + "</span>";
}

}  // namespace

std::vector<double> nice_ticks(double low, double high, int count) {
  if (!(high > low)) return {};
  const double raw = (high - low) / count;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (const double m : {1.0, 2.0, 2.5, 5.0}) {
    if (m * power >= raw * 0.999) {
      step = m * power;
      break;
    }
  }
  std::vector<double> ticks;
  for (double i = std::ceil(low / step - 1e-9); i * step <= high + 1e-9 * step && ticks.size() < 50; ++i)
    ticks.push_back(i == 0 ? 0 : i * step);
  return ticks;
}

std::string chart_html(const Chart& chart) {
  const Frame f = make_frame(chart);
  if (!(f.low <= f.high)) return "";
  double last = NAN;
  int64_t non_finite = 0;
  for (const double y : chart.series.front().y) {
    if (std::isfinite(y)) last = y;
    non_finite += std::isinf(y) || std::isnan(y) ? 1 : 0;
  }
  std::string note = html_escape(chart.note);
  if (non_finite > 0) note += fmt::format(R"( <b class="bad">{} not finite</b>)", non_finite);
  std::string out = fmt::format(
      R"(<figure class="chart{}"><figcaption><b>{}</b> <small>{}</small>{}<output>{}</output></figcaption>)",
      chart.wide ? " wide" : "", html_escape(chart.title), note, legend_html(chart),
      std::isfinite(last) ? compact_number(last) : "");
  out += fmt::format(R"(<svg viewBox="0 0 {} {}" role="img" aria-label="{}">)", f.width, f.height,
                     html_escape(chart.title));
  out += grid_svg(chart, f);
  std::string on_top;
  for (size_t i = 0; i < chart.series.size(); ++i) {
    const ChartSeries& s = chart.series[i];
    const size_t color = i % 3;
    if (s.markers) {
      on_top += markers_svg(chart, f, s, color);
      continue;
    }
    const Points p = thin_out(chart, s);
    const bool is_long = static_cast<int64_t>(p.x.size()) >= kSmoothFrom;
    out += fmt::format(R"(<path class="curve s{}{}" d="{}"/>)", color, is_long ? " raw" : "",
                       path_of(f, p, p.y));
    if (is_long) out += fmt::format(R"(<path class="curve s{}" d="{}"/>)", color, path_of(f, p, smooth(p)));
    out += hover_svg(chart, f, s, p, color);
  }
  return out + on_top + "</svg></figure>\n";
}

std::string stacked_bar_html(const std::string& title,
                             const std::vector<std::pair<std::string, double>>& parts) {
  double total = 0;
  for (const auto& [name, value] : parts) total += std::max(0.0, value);
  if (!(total > 0) || !std::isfinite(total)) return "";
  std::string bar;
  std::string legend;
  for (size_t i = 0; i < parts.size(); ++i) {
    const double percent = 100 * std::max(0.0, parts[i].second) / total;
    const std::string name = html_escape(parts[i].first);
    const std::string text = fmt::format("{} ({:.1f}%)", compact_duration(parts[i].second), percent);
    bar +=
        fmt::format(R"(<i class="c{}" style="width:{:.3f}%" title="{} {}"></i>)", i % 8, percent, name, text);
    legend += fmt::format(R"(<li><i class="c{}"></i>{} <span>{}</span></li>)", i % 8, name, text);
  }
  return fmt::format(
      "<figure class=\"phases\"><figcaption><b>{}</b><output>{}</output></figcaption><div "
      "class=\"stack\">{}</div><ul>{}</ul></figure>\n",
      html_escape(title), compact_duration(total), bar, legend);
}

std::string html_escape(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    utf8proc_int32_t code = 0;
    const auto size = static_cast<utf8proc_ssize_t>(std::min<size_t>(text.size(), 4));
    const utf8proc_ssize_t bytes =
        utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), size, &code);
    const std::string_view unit = text.substr(0, static_cast<size_t>(std::max<utf8proc_ssize_t>(1, bytes)));
    if (bytes <= 0) {
      out += "\xEF\xBF\xBD";  // U+FFFD
    } else if (code == '&') {
      out += "&amp;";
    } else if (code == '<') {
      out += "&lt;";
    } else if (code == '>') {
      out += "&gt;";
    } else if (code == '"') {
      out += "&quot;";
    } else if (code == '\'') {
      out += "&#39;";
    } else if (code < 0x20 && code != '\n' && code != '\t') {
      out += fmt::format("&#x24{:02X};", code);  // the picture of the control character
    } else if ((code >= 0x202A && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069)) {
      out += "\xEF\xBF\xBD";  // would reorder the rest of the page
    } else {
      out += unit;
    }
    text.remove_prefix(unit.size());
  }
  return out;
}

}  // namespace contender
