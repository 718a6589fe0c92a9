#include "cli/terminal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "base/error.h"

namespace contender {
namespace {

struct Pipe {
  int ends[2];
  Pipe() { EXPECT_EQ(::pipe(ends), 0); }
  ~Pipe() {
    ::close(ends[0]);
    close();
  }
  void write(const std::string& text) {
    EXPECT_EQ(::write(ends[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void close() {
    if (ends[1] >= 0) ::close(ends[1]);
    ends[1] = -1;
  }
};

std::string next(QuestionReader& reader) {
  for (int tries = 0; tries < 100; ++tries)
    if (std::optional<std::string> q = reader.poll()) return *q;
  return "nothing came";
}

TEST(Terminal, AQuestionPerLine) {
  Pipe pipe;
  QuestionReader reader(pipe.ends[0], true);
  EXPECT_EQ(reader.poll(), std::nullopt);
  pipe.write("one\ntwo\n\nthr");
  EXPECT_EQ(next(reader), "one");
  EXPECT_EQ(next(reader), "two");
  EXPECT_EQ(next(reader), "");
  EXPECT_EQ(reader.poll(), std::nullopt);  // not whole yet
  EXPECT_FALSE(reader.ended());
  pipe.write("ee\nfour");
  EXPECT_EQ(next(reader), "three");
  pipe.close();
  EXPECT_EQ(next(reader), "four");
  EXPECT_TRUE(reader.ended());
}

TEST(Terminal, AFileIsOneQuestion) {
  Pipe pipe;
  QuestionReader reader(pipe.ends[0], false);
  pipe.write("one\n");
  EXPECT_EQ(reader.poll(), std::nullopt);
  pipe.write(std::string("two\0", 4));
  pipe.close();
  EXPECT_EQ(next(reader), std::string("one\ntwo\0", 8));
  EXPECT_TRUE(reader.ended());
}

TEST(Terminal, AnEndlessLineIsRefused) {
  const int zeros = ::open("/dev/zero", O_RDONLY);
  QuestionReader reader(zeros, true);
  try {
    for (int i = 0; i < 1000; ++i) EXPECT_EQ(reader.poll(), std::nullopt);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kConfig);
    EXPECT_STREQ(e.what(), "stdin: more than 8388608 bytes for one question");
  }
  ::close(zeros);
}

TEST(TerminalDeathTest, CtrlCEndsAnAnswerThenTheProgram) {
  take_interrupts();
  begin_answer();
  EXPECT_FALSE(interrupted());
  ::raise(SIGINT);
  EXPECT_TRUE(interrupted());
  EXPECT_EXIT(::raise(SIGINT), testing::KilledBySignal(SIGINT), "");
  begin_answer();
  EXPECT_FALSE(interrupted());
  end_answer();
  EXPECT_EXIT(::raise(SIGINT), testing::KilledBySignal(SIGINT), "");
  ::signal(SIGINT, SIG_DFL);
}

}  // namespace
}  // namespace contender
