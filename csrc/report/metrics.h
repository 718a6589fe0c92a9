// Metrics of a run: one record per step, written as JSONL and TensorBoard events, shown as one console line.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace contender {

// Keys that the console and the report know by name: reward, accuracy, response_length, kl, clip_fraction,
// entropy, loss, grad_norm, lr, tokens_per_second, matrix_share (of the measured matrix rate, 0..1), dollars;
// eval_accuracy and eval_accuracy_greedy (steps with an evaluation only). `eval_<key>` is drawn as points
// over the curve of <key>. Any other number gets a curve of its own.
//
// One line of metrics.jsonl: fields in insertion order. Times are kept apart (under "seconds"), so that two
// runs can be compared bit by bit without them.
class MetricRecord {
 public:
  void set(const std::string& key, double value);  // written with 17 significant digits; NaN / Inf as strings
  void set(const std::string& key, int64_t value);
  void set(const std::string& key, const std::string& value);
  void set_seconds(const std::string& phase, double seconds);
  // A number that depends on the clock (tokens per second, cost): shown like any other, written as
  // seconds.rates.<key>.
  void set_rate(const std::string& key, double value);
  double number(const std::string& key, double missing = 0) const;
  std::string json() const;  // one line, no newline
  const std::vector<std::pair<std::string, double>>& numbers() const { return numbers_; }
  const std::vector<std::pair<std::string, double>>& seconds() const { return seconds_; }

 private:
  std::vector<std::pair<std::string, std::string>> fields_;  // key, JSON value
  std::vector<std::pair<std::string, double>> numbers_;
  std::vector<std::pair<std::string, double>> seconds_;
  std::vector<std::pair<std::string, double>> rates_;
};

// Appends to <dir>/metrics.jsonl and <dir>/events.out.tfevents.*; on resume, records with step >= first_step
// of the same stage are cut off first. Rank 0 only.
class MetricWriter {
 public:
  MetricWriter(const std::string& dir, bool tensorboard);
  ~MetricWriter();
  // Drops the records after `lines` (the number of lines the checkpoint knew of), here and in the event file.
  // A line torn by the end of an earlier process is dropped at construction. Throws Error(kStorage) naming
  // the path, like write().
  void truncate(int64_t lines);
  void write(const std::string& stage, int64_t step, const MetricRecord& record);
  int64_t lines() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Console: a bar with a sparkline of the headline value on a terminal, plain lines otherwise.
class Console {
 public:
  Console(std::string phase, int64_t total_steps);
  ~Console();  // ends the bar's line
  // `step` counts completed steps, 1..total_steps; a resumed phase may start anywhere. total_steps 0: not
  // known. One line per step: step | reward | accuracy | len | kl | clipfrac | entropy | loss | norm | lr |
  // seconds per phase | tok/s | % matrix rate | $. Columns whose key is missing in the record are left out.
  void step(int64_t step, const MetricRecord& record);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The line that Console prints when stdout is not a terminal, without the newline.
std::string plain_step_line(const std::string& phase, int64_t step, int64_t total,
                            const MetricRecord& record);

// A table with a header row, aligned columns; box lines and colours on a terminal only.
std::string format_table(const std::vector<std::vector<std::string>>& rows);

// Static HTML with SVG curves of everything in <dir>/metrics.jsonl, the numbers of <dir>/summary.json and the
// completions of <dir>/samples.json ([{prompt, answer, before, after, before_correct, after_correct}]), both
// optional; every <dir>/*/metrics.jsonl adds a section of its own. No script, nothing loaded from elsewhere.
// Throws Error(kConfig) when there is no metrics.jsonl. Returns the path of report.html.
std::string write_report(const std::string& dir);

}  // namespace contender
