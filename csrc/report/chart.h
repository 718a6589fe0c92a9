// Charts as inline SVG: colours come from CSS variables of the page, values on hover from <title>; no script.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace contender {

struct ChartSeries {
  std::string name;
  std::vector<double> x, y;  // x ascending; y that is not finite is a gap
  bool markers =
      false;  // evaluation: points joined by a thin line; otherwise a curve, smoothed when it is long
};

struct ChartBand {
  std::string name;           // a stage of the run
  double begin = 0, end = 0;  // in x
};

struct Chart {
  std::string title;
  std::string note;  // unit or meaning, small
  std::vector<ChartSeries> series;
  std::vector<ChartBand> bands;
  double x_max = 1;
  bool share = false;  // y from 0 to 1
  bool wide = false;   // broader, for the headline curves
};

// <figure> with title, latest value, SVG. An empty string when no value is finite.
std::string chart_html(const Chart& chart);

// A horizontal bar of parts with a legend: seconds per phase.
std::string stacked_bar_html(const std::string& title,
                             const std::vector<std::pair<std::string, double>>& parts);

// Also makes control characters visible and bytes that are not UTF-8 harmless.
std::string html_escape(std::string_view text);

// Round positions covering [low, high], about `count` of them.
std::vector<double> nice_ticks(double low, double high, int count);

}  // namespace contender
