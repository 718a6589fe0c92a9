// What checking a prompt file costs before a run, plain and compressed; a prompt in the order of training;
// the comparison of training prompts with held-out ones.
#include <benchmark/benchmark.h>
#include <unistd.h>
#include <zstd.h>

#include <filesystem>
#include <fstream>

#include "base/philox.h"
#include "data/prompts.h"

namespace contender {
namespace {

// Questions of about 60 words from a vocabulary of 3,000: 20,000 are 8 MB.
std::string question_lines(uint64_t seed, int64_t count) {
  PhiloxSequence random(seed, RandomStream::kTask, 0, 0);
  std::string text;
  for (int64_t i = 0; i < count; ++i) {
    text += "{\"prompt\": \"";
    for (int w = 0; w < 60; ++w)
      text += "w" + std::to_string(random.next() % 3000) + (w % 9 == 8 ? ", " : " ");
    text += "\", \"answer\": " + std::to_string(i) + "}\n";
  }
  return text;
}

class Sets {
 public:
  Sets() : folder_(std::filesystem::temp_directory_path() / ("jsonl_bench_" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(folder_);
    const std::string text = question_lines(1, 20000);
    std::string packed(ZSTD_compressBound(text.size()), '\0');
    packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 3));
    write("train.jsonl", text);
    write("train.jsonl.zst", packed);
    write("eval.jsonl", question_lines(2, 1000));
    bytes_ = std::ssize(text);
  }
  ~Sets() { std::filesystem::remove_all(folder_); }

  TaskConfig task(bool compressed, const char* contamination) const {
    return {.name = "jsonl",
            .train_files = {folder_ / (compressed ? "train.jsonl.zst" : "train.jsonl")},
            .eval_files = {folder_ / "eval.jsonl"},
            .contamination = contamination,
            .max_prompt_tokens = 4096};
  }
  int64_t bytes() const { return bytes_; }

 private:
  void write(const char* name, const std::string& content) {
    std::ofstream(folder_ / name, std::ios::binary) << content;
  }
  std::filesystem::path folder_;
  int64_t bytes_;
};

const Sets& sets() {
  static const Sets made;
  return made;
}

std::unique_ptr<PromptSource> open(const TaskConfig& task) {
  static const auto tokenizer = make_byte_tokenizer();
  return make_prompt_source(task, Split::kTrain, 1, *tokenizer);
}

void check_file(benchmark::State& state, bool compressed, const char* contamination) {
  for (auto _ : state) benchmark::DoNotOptimize(open(sets().task(compressed, contamination))->size());
  state.SetBytesProcessed(state.iterations() * sets().bytes());
}
BENCHMARK_CAPTURE(check_file, plain, false, "off")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(check_file, zstd, true, "off")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(check_file, plain_overlap, false, "report")->Unit(benchmark::kMillisecond);

void prompt_at(benchmark::State& state, bool compressed) {
  const auto source = open(sets().task(compressed, "off"));
  int64_t position = 0;
  for (auto _ : state) benchmark::DoNotOptimize(source->at(source->index_at(1, position++)).tokens.size());
}
BENCHMARK_CAPTURE(prompt_at, plain, false)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(prompt_at, zstd, true)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace contender
