// stdin, stdout and Ctrl-C of a conversation.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace contender {

// Questions from a file: a line each, or all of it as one.
class QuestionReader {
 public:
  static constexpr int64_t kMaxBytes = 8 << 20;  // of a question; more is Error(kConfig)
  QuestionReader(int fd, bool lines) : fd_(fd), lines_(lines) {}
  // Waits for a tenth of a second at most. nullopt: not yet. The end of the file ends the last question,
  // once.
  std::optional<std::string> poll();
  bool ended() const { return ended_ && buffer_.empty(); }

 private:
  std::optional<std::string> take_line();
  const int fd_;
  const bool lines_;
  bool ended_ = false;
  std::string buffer_;
};

// To stdout, at once. Error(kStorage) when it cannot be written.
void show(const std::string& text);

// From here on Ctrl-C (SIGINT) during an answer is a request to end it; at other times, and the second time,
// it ends the program as it would have, with the terminal's letters plain again.
void take_interrupts();
void begin_answer();  // forgets an earlier request
void end_answer();
bool interrupted();

}  // namespace contender
