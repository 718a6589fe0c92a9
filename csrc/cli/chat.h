// `contender generate --model`: a conversation with any model, in a terminal or a pipe.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/config.h"
#include "data/prompts.h"
#include "data/tokenizer.h"
#include "grpo/app.h"
#include "ops/sampling.h"

namespace contender {

struct ChatOptions {
  std::string model;         // Hugging Face directory, GGUF file, checkpoint or run directory; "": no chat
  std::string question;      // "": from stdin
  std::string system;        // before the first question
  std::vector<int32_t> ids;  // the question as token numbers: the answer is printed as such
  bool talk = false;         // a question per line, although stdin is no terminal
  std::optional<double> temperature, top_p, min_p;  // else as the model's makers say
  std::optional<int64_t> top_k;
  int64_t max_new_tokens = 0;  // 0: what the context leaves
  int64_t context = 0;         // 0: the model's, at most kUsualContext and what memory holds
};

inline constexpr int64_t kUsualContext = 16384;

// What is known before the ranks start.
struct ChatModel {
  RunConfig config;  // of one sequence, nothing is trained
  std::string
      run_dir;  // its newest checkpoint has the weights; "": those of `checkpoint` or config.model.path
  std::string checkpoint;
  SampleParams sampling;
};

// For `np` ranks: as many as can share the model's matrices do, its experts lie on all that divide them;
// overrides win. Sampling is that of generation_config.json, without one temperature 0.6 and top-p 0.95; a
// run's is its [eval]. Error(kConfig).
ChatModel open_chat_model(const ChatOptions& options, const std::vector<std::string>& overrides, int np);

// Collective over MPI_COMM_WORLD; rank 0 reads stdin and writes the answer to stdout, all else to stderr.
// Ctrl-C ends an answer, at the prompt or a second time the program.
int run_chat(const ChatModel& model, const ChatOptions& options, const Backend& backend);

// What was said so far.
class Conversation {
 public:
  // Without a chat template every question stands alone, and a system text is refused (Error(kConfig)).
  Conversation(const Tokenizer& tokenizer, const std::string& system);
  ~Conversation();
  // The prompt that ends with this question. The oldest exchanges are forgotten where all of them and `room`
  // tokens do not fit into `context`. Error(kConfig), and nothing is remembered, when the question alone does
  // not.
  Prompt ask(const std::string& question, int64_t context, int64_t room);
  // The answer to the last question; its thought is not remembered.
  void answer(std::string_view text);
  bool remembers() const { return remembers_; }

 private:
  const Tokenizer& tokenizer_;
  std::unique_ptr<nlohmann::ordered_json> messages_;
  const bool remembers_;
  bool has_system_ = false;
};

// Dims what stands between <think> and </think>, of text that comes in pieces. With `dim` false the text
// passes as it is.
class ThoughtPainter {
 public:
  ThoughtPainter(bool dim, bool inside) : dim_(dim), inside_(inside) {}
  std::string push(std::string_view text);
  std::string finish();

 private:
  std::string painted(std::string_view text);
  const bool dim_;
  bool inside_;
  bool dimmed_ = false;  // the terminal is
  std::string pending_;  // may be the beginning of a mark
};

}  // namespace contender
