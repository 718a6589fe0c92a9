#include "data/prompt_text.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace contender {
namespace {

std::string zstd(const std::string& text) {
  ZSTD_CCtx* c = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress2(c, out.data(), out.size(), text.data(), text.size()));
  ZSTD_freeCCtx(c);
  return out;
}

// An empty frame that asks for a window of 2^log bytes.
std::string frame_of_window(int log) {
  return "\x28\xb5\x2f\xfd" + std::string{'\0', static_cast<char>((log - 10) << 3), '\1', '\0', '\0'};
}

std::string words(size_t bytes) {
  std::string text;
  for (uint64_t x = 1; text.size() < bytes; x = x * 6364136223846793005u + 1442695040888963407u)
    text += std::to_string(x >> 40) + (x >> 60 ? " " : "\n");
  text.resize(bytes);
  return text;
}

class PromptTexts : public testing::Test {
 protected:
  PromptTexts() {
    folder_ = std::filesystem::temp_directory_path() / ("contender_text_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  ~PromptTexts() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<PromptText> open(const std::string& content) {
    std::ofstream(folder_ / "set", std::ios::binary) << content;
    return open_prompt_text(folder_ / "set");
  }
  static std::string whole(PromptText& text) {
    std::string all;
    while (text.append_next(&all)) {
    }
    return all;
  }
  // What is said of a file, without its name.
  std::string error_of(const std::string& content, ExitCode code = ExitCode::kConfig) {
    try {
      whole(*open(content));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code);
      const std::string message = error.what(), name = (folder_ / "set").string() + ": ";
      EXPECT_EQ(message.substr(0, name.size()), name);
      return message.substr(name.size());
    }
    return "no error";
  }

  std::filesystem::path folder_;
};

TEST_F(PromptTexts, CompressedReadsLikePlain) {
  const std::string text = words(1'500'000), more = words(70'000);
  const std::string skippable = std::string("\x53\x2a\x4d\x18\x03\x00\x00\x00", 8) + "abc";
  for (const std::string& content : {text + more, zstd(text + more), zstd(text) + zstd(more),
                                     skippable + zstd(text) + zstd("") + zstd(more)}) {
    const auto opened = open(content);
    const std::string all = text + more;
    ASSERT_TRUE(whole(*opened) == all);
    for (const int64_t at : {0, 1, 65535, 65536, 1'499'990}) {
      EXPECT_EQ(opened->read(at, 100), all.substr(at, 100));
      EXPECT_TRUE(opened->read(at, 600'000) == all.substr(at, 600'000));
    }
    EXPECT_EQ(opened->read(std::ssize(all) - 5, 100), all.substr(all.size() - 5));
  }
  EXPECT_EQ(whole(*open(zstd(""))), "");
  EXPECT_EQ(whole(*open("")), "");
}

TEST_F(PromptTexts, DamagedFilesAreNamed) {
  const std::string packed = zstd(words(300'000));
  for (const size_t cut : {size_t{5}, packed.size() / 2, packed.size() - 1})
    EXPECT_EQ(error_of(packed.substr(0, cut)), "zstd: the file is cut off") << cut;
  std::string flipped = packed;
  flipped[packed.size() / 2] ^= 1;
  EXPECT_EQ(error_of(flipped).substr(0, 6), "zstd: ");
  EXPECT_EQ(error_of(packed + "tail").substr(0, 6), "zstd: ");
}

TEST_F(PromptTexts, BombsAreBounded) {
  const std::string zeros = zstd(std::string(100 << 20, '\n'));
  EXPECT_LT(zeros.size(), 20'000u);
  EXPECT_NE(error_of(zeros).find(" expand to more than 1000 times as many"), std::string::npos);
  EXPECT_EQ(error_of(frame_of_window(28)),
            "compressed with a window of more than 128 MiB: compress it without --long");
  EXPECT_EQ(error_of(frame_of_window(27)), "no error");
}

TEST_F(PromptTexts, WhatIsNoFile) {
  EXPECT_THROW(open_prompt_text(folder_ / "none"), Error);
  EXPECT_THROW(open_prompt_text(folder_), Error);
  ASSERT_EQ(::mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  EXPECT_THROW(open_prompt_text(folder_ / "pipe"), Error);  // and it is not waited for
}

TEST_F(PromptTexts, TheTemporaryFileLeavesNothing) {
  const char* before = std::getenv("TMPDIR");
  const std::string kept = before ? before : "";
  const std::string room = folder_ / "room";
  std::filesystem::create_directory(room);
  ::setenv("TMPDIR", room.c_str(), 1);
  {
    const auto opened = open(zstd(words(600'000)));
    whole(*opened);
    EXPECT_TRUE(std::filesystem::is_empty(room));
    EXPECT_EQ(opened->read(300'000, 3).size(), 3u);
  }
  before ? ::setenv("TMPDIR", kept.c_str(), 1) : ::unsetenv("TMPDIR");
}

}  // namespace
}  // namespace contender
