#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "report/chart.h"
#include "report/files.h"
#include "report/metrics.h"
#include "report/page_style.h"
#include "report/text.h"

namespace contender {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr size_t kSamplesShown = 6;
constexpr size_t kMaxSamples = 200;

struct KnownMetric {
  const char* key;
  const char* title;
  const char* note;
  bool wide = false;
};
constexpr std::array kMetrics = {
    KnownMetric{"accuracy", "Accuracy", "share of correct answers", true},
    KnownMetric{"reward", "Reward", "mean per completion", true},
    KnownMetric{"response_length", "Response length", "tokens"},
    KnownMetric{"entropy", "Entropy", "nats per token"},
    KnownMetric{"kl", "KL", "to the reference"},
    KnownMetric{"clip_fraction", "Clip fraction", "share of tokens"},
    KnownMetric{"grad_norm", "Gradient norm", "before clipping"},
    KnownMetric{"loss", "Loss", ""},
    KnownMetric{"tokens_per_second", "Speed", "tokens per second"},
    KnownMetric{"lr", "Learning rate", ""},
};

struct Curve {
  std::vector<double> x, y;
};

// metrics.jsonl as curves over one axis: the steps of the stages one after the other.
struct Run {
  std::vector<ChartBand> stages;
  std::vector<std::string> keys;  // order of first appearance
  std::map<std::string, Curve> curves;
  std::vector<std::pair<std::string, double>> seconds;
  double x_max = 0;
  int64_t lines = 0;
};

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A missing file is null; a damaged one too, with a warning.
Json read_json(const std::string& path) {
  if (!fs::exists(path)) return nullptr;
  Json json = Json::parse(read_text(path), nullptr, false);
  if (!json.is_discarded()) return json;
  log_warn("{}: not valid JSON, left out of the report", path);
  return nullptr;
}

void add_line(Run& run, const Json& line) {
  const std::string stage =
      line.contains("stage") && line["stage"].is_string() ? line["stage"].get<std::string>() : "run";
  const double step = line.contains("step") && line["step"].is_number() ? line["step"].get<double>() : 0;
  if (run.stages.empty() || run.stages.back().name != stage)
    run.stages.push_back({stage, run.x_max, run.x_max});
  ChartBand& band = run.stages.back();
  const double x = band.begin + step;
  band.end = run.x_max = std::max(run.x_max, x);
  ++run.lines;
  const auto add_point = [&](const std::string& key, const Json& value) {
    // NaN and infinities are written as strings.
    const bool gap = value == "NaN" || value == "Infinity" || value == "-Infinity";
    if (!value.is_number() && !gap) return;
    if (!run.curves.contains(key)) run.keys.push_back(key);
    run.curves[key].x.push_back(x);
    run.curves[key].y.push_back(gap ? NAN : value.get<double>());
  };
  for (const auto& [key, value] : line.items())
    if (key != "stage" && key != "step" && key != "seconds") add_point(key, value);
  const Json seconds = line.value("seconds", Json::object());
  if (!seconds.is_object()) return;
  if (const auto rates = seconds.find("rates"); rates != seconds.end() && rates->is_object())
    for (const auto& [key, value] : rates->items()) add_point(key, value);
  for (const auto& [phase, value] : seconds.items()) {
    if (!value.is_number() || phase == "step") continue;  // the step is the sum of its phases
    const auto at =
        std::find_if(run.seconds.begin(), run.seconds.end(), [&](const auto& s) { return s.first == phase; });
    if (at == run.seconds.end()) {
      run.seconds.emplace_back(phase, value.get<double>());
    } else {
      at->second += value.get<double>();
    }
  }
}

Run load_run(const std::string& path) {
  Run run;
  std::ifstream in(path, std::ios::binary);
  int64_t number = 0;
  for (std::string text; std::getline(in, text);) {
    ++number;
    const Json line = Json::parse(text, nullptr, false);
    if (line.is_object()) {
      add_line(run, line);
    } else if (!text.empty()) {
      log_warn("{}:{}: not a JSON object, left out of the report", path, number);
    }
  }
  return run;
}

std::string plain_name(std::string key) {
  std::replace(key.begin(), key.end(), '_', ' ');
  return key;
}

std::string value_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (value.is_number_integer()) {
    std::string digits = std::to_string(value.get<int64_t>());
    const int64_t sign = digits[0] == '-' ? 1 : 0;
    for (auto i = static_cast<int64_t>(digits.size()) - 3; i > sign; i -= 3)
      digits.insert(static_cast<size_t>(i), "\u202F");
    return digits;
  }
  return compact_number(value.get<double>());
}

// The climb of the accuracy in large type, then every other number of summary.json.
std::string summary_html(const Json& summary) {
  std::string out;
  const auto number = [&](const char* key) {
    return summary.contains(key) && summary[key].is_number() ? summary[key].get<double>() : NAN;
  };
  const double before = number("accuracy_before");
  const double after = number("accuracy_after");
  if (std::isfinite(before) && std::isfinite(after)) {
    out += fmt::format(
        R"(<p class="climb"><span class="from">{:.3f}</span><span class="to">&#8594;</span><span class="after{}">{:.3f}</span></p>)",
        before, after < before ? " worse" : "", after);
    out += "<p>accuracy on held-out problems at temperature 1, before and after reinforcement learning</p>";
  }
  std::string cells;
  for (const auto& [key, value] : summary.items()) {
    if (value.is_object() || value.is_array() || value.is_null()) continue;
    std::string text = value_text(value);
    if (key.ends_with("seconds") && value.is_number()) text = compact_duration(value.get<double>());
    if (key.starts_with("accuracy") && value.is_number()) text = fmt::format("{:.3f}", value.get<double>());
    if (key == "seed" && value.is_number_integer()) text = std::to_string(value.get<int64_t>());
    cells +=
        fmt::format("<div><dt>{}</dt><dd>{}</dd></div>", html_escape(plain_name(key)), html_escape(text));
  }
  return cells.empty() ? out : out + "<dl>" + cells + "</dl>\n";
}

Chart make_chart(const Run& run, const std::string& key, const std::string& title, const std::string& note) {
  Chart chart;
  chart.title = title;
  chart.note = note;
  chart.bands = run.stages;
  chart.x_max = run.x_max;
  chart.share = key.find("accuracy") != std::string::npos;
  if (const auto at = run.curves.find(key); at != run.curves.end())
    chart.series.push_back({"training", at->second.x, at->second.y, false});
  for (const std::string& other : run.keys) {
    if (other == "eval_" + key || other.starts_with("eval_" + key + "_"))
      chart.series.push_back({plain_name(other), run.curves.at(other).x, run.curves.at(other).y, true});
  }
  return chart;
}

std::string charts_html(const Run& run) {
  std::set<std::string> drawn;
  const auto draw = [&](const std::string& key, const std::string& title, const std::string& note,
                        bool wide) {
    Chart chart = make_chart(run, key, title, note);
    if (chart.series.empty() || drawn.contains(key)) return std::string();
    chart.wide = wide;
    drawn.insert(key);
    for (const std::string& other : run.keys) {
      if (other == "eval_" + key || other.starts_with("eval_" + key + "_")) drawn.insert(other);
    }
    return chart_html(chart);
  };
  std::string known;
  for (const KnownMetric& m : kMetrics) known += draw(m.key, m.title, m.note, m.wide);
  std::string others;
  for (const std::string& key : run.keys) others += draw(key, plain_name(key), "", false);
  std::string out = known.empty() ? "" : "<h3>Curves</h3><div class=\"charts\">" + known + "</div>\n";
  if (!others.empty())
    out += "<details><summary>Everything else that was measured</summary><div class=\"charts\">" + others +
           "</div></details>\n";
  return out;
}

// The completion with its tags in colour: the thought quiet, the answer bold.
std::string completion_html(const std::string& text) {
  struct Tag {
    std::string_view text;
    std::string_view opens;  // class of what follows; empty: a closing tag
  };
  constexpr std::array tags = {Tag{"<think>", "think"}, Tag{"</think>", ""}, Tag{"<answer>", "answer"},
                               Tag{"</answer>", ""}};
  std::string out;
  bool open = false;
  std::string_view rest = text;
  while (!rest.empty()) {
    size_t at = std::string_view::npos;
    const Tag* tag = nullptr;
    for (const Tag& t : tags) {
      const size_t found = rest.find(t.text);
      if (found < at) {
        at = found;
        tag = &t;
      }
    }
    out += html_escape(rest.substr(0, at));
    if (!tag) break;
    if (open) out += "</span>";
    out += fmt::format("<span class=\"tag\">{}</span>", html_escape(tag->text));
    open = !tag->opens.empty();
    if (open) out += fmt::format("<span class=\"{}\">", tag->opens);
    rest.remove_prefix(at + tag->text.size());
  }
  return open ? out + "</span>" : out;
}

std::string text_of(const Json& sample, const char* key) {
  if (!sample.contains(key)) return "";
  return sample[key].is_structured() ? "" : sample[key].is_null() ? "" : value_text(sample[key]);
}

bool is_true(const Json& sample, const char* key) {
  if (!sample.contains(key)) return false;
  return sample[key].is_boolean() ? sample[key].get<bool>()
                                  : sample[key].is_number() && sample[key].get<double>() > 0.5;
}

std::string sample_html(const Json& sample) {
  const auto side = [&](const char* label, const char* text_key, const char* correct_key) {
    const bool correct = is_true(sample, correct_key);
    return fmt::format(
        R"(<div><div class="label"><span>{}</span><span class="{}">{}</span></div><pre>{}</pre></div>)",
        label, correct ? "right" : "wrong", correct ? "&#10003; correct" : "&#10007; wrong",
        completion_html(text_of(sample, text_key)));
  };
  return fmt::format(
      "<figure class=\"sample\"><div class=\"ask\"><div class=\"label\"><span>prompt</span><span>answer "
      "<b>{}</b></span></div><pre>{}</pre></div><div class=\"pair\">{}{}</div></figure>\n",
      html_escape(text_of(sample, "answer")), completion_html(text_of(sample, "prompt")),
      side("before", "before", "before_correct"), side("after", "after", "after_correct"));
}

std::string samples_html(const Json& samples) {
  if (!samples.is_array() || samples.empty()) return "";
  std::string out = "<h3>The same problems, before and after</h3>\n";
  size_t shown = 0;
  for (const Json& sample : samples) {
    if (!sample.is_object() || shown == kMaxSamples) continue;
    if (shown++ == kSamplesShown) out += "<details><summary>More problems</summary>\n";
    out += sample_html(sample);
  }
  return shown > kSamplesShown ? out + "</details>\n" : out;
}

std::string run_html(const std::string& dir, const Run& run) {
  const Json summary = read_json(dir + "/summary.json");
  std::string out = summary.is_object() ? summary_html(summary) : "";
  if (run.lines == 0) return out + "<p>No step has been recorded yet.</p>\n";
  out += charts_html(run);
  out += stacked_bar_html("Where the time went", run.seconds);
  return out + samples_html(read_json(dir + "/samples.json"));
}

std::vector<std::string> sub_runs(const std::string& dir) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir)) {
    if (entry.is_directory() && fs::exists(entry.path() / "metrics.jsonl"))
      names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

std::string write_report(const std::string& dir) {
  const std::string metrics_path = dir + "/metrics.jsonl";
  if (!fs::exists(metrics_path))
    fail(ExitCode::kConfig, "{}: no such file; the report needs the directory of a run", metrics_path);
  const std::string name = html_escape(fs::weakly_canonical(dir).filename().string());
  std::string page = fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width,initial-scale=1\"><title>{} - "
      "contender</title><style>{}</style></head>\n<body><main>"
      "<p class=\"kicker\">contender run</p><h1>{}</h1>\n",
      name, kPageStyle, name);
  page += run_html(dir, load_run(metrics_path));
  for (const std::string& sub : sub_runs(dir)) {
    page += fmt::format("<section><h2>{}</h2>\n{}</section>\n", html_escape(sub),
                        run_html(dir + "/" + sub, load_run(dir + "/" + sub + "/metrics.jsonl")));
  }
  page +=
      "<footer>Every number is in metrics.jsonl and summary.json beside this "
      "page.</footer></main></body></html>\n";
  const std::string path = dir + "/report.html";
  replace_file(path, page);
  return path;
}

}  // namespace contender
