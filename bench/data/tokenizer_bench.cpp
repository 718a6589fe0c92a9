// Tokens of a text: TOKENIZER=DIR takes a real tokenizer (a directory or tokenizer.json), else a small one.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "data/tokenizer.h"

namespace contender {
namespace {

const Tokenizer& tokenizer() {
  static const std::unique_ptr<Tokenizer> opened = [] {
    if (const char* path = std::getenv("TOKENIZER")) return open_tokenizer(std::string(path));
    std::ifstream in("tests/fixtures/tokenizer/deepseek/tokenizer.json");
    return make_bpe_tokenizer(parse_tokenizer_json(std::string{std::istreambuf_iterator<char>(in), {}}),
                              {.stop_tokens = {1}, .fingerprint = "small"});
  }();
  return *opened;
}

// The sources and documents of this project, in pieces of at most 4 KiB; every eighth piece is another
// script.
std::vector<std::string> mixed_text() {
  std::vector<std::string> pieces, files;
  for (const char* folder : {"csrc", "cuda", "mpi", "tests"}) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
      const std::string kind = entry.path().extension();
      if (kind == ".cpp" || kind == ".h" || kind == ".cu" || kind == ".md") files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  for (const std::string& file : files) {
    std::ifstream in(file);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    for (size_t at = 0; at < text.size(); at += 4096) pieces.push_back(text.substr(at, 4096));
  }
  for (size_t i = 0; i < pieces.size(); i += 8) {
    pieces[i].clear();
    for (int k = 0; k < 64; ++k)
      pieces[i] +=
          "\u6570\u5b66\u306e\u554f\u984c: \u0447\u0438\u0441\u043b\u043e \u00e9t\u00e9 \U0001f600 = 42, ";
  }
  return pieces;
}

void encode_mixed(benchmark::State& state) {
  const std::vector<std::string> pieces = mixed_text();
  int64_t bytes = 0, tokens = 0;
  for (auto _ : state) {
    for (const std::string& piece : pieces) {
      tokens += std::ssize(tokenizer().encode(piece));
      bytes += std::ssize(piece);
    }
  }
  state.SetBytesProcessed(bytes);
  state.counters["bytes/token"] = static_cast<double>(bytes) / static_cast<double>(tokens);
}
BENCHMARK(encode_mixed)->Unit(benchmark::kMillisecond);

// 1 MiB of one text again and again.
void encode_run(benchmark::State& state, const char* unit) {
  std::string text;
  while (text.size() < 1 << 20) text += unit;
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer().encode(text));
  state.SetBytesProcessed(state.iterations() * std::ssize(text));
}
BENCHMARK_CAPTURE(encode_run, letters, "a")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode_run, spaces, " ")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode_run, marks, "\u0301\u0316")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode_run, han, "\u4e00")->Unit(benchmark::kMillisecond);

void decode_stream(benchmark::State& state) {
  std::vector<int32_t> tokens;
  for (const std::string& piece : mixed_text())
    for (const int32_t id : tokenizer().encode(piece)) tokens.push_back(id);
  for (auto _ : state) {
    StreamDecoder stream(tokenizer());
    for (const int32_t id : tokens) benchmark::DoNotOptimize(stream.push(id));
  }
  state.SetItemsProcessed(state.iterations() * std::ssize(tokens));
}
BENCHMARK(decode_stream)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace contender
