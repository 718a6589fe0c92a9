// GGUF files of strangers: what the reader takes, and that everything else is one line.
#include "data/gguf_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "base/error.h"
#include "tests/data/gguf_builder.h"

namespace contender {
namespace {

using namespace testing_gguf;

GgufBuilder small() {
  return GgufBuilder()
      .words("general.architecture", "llama")
      .u32("llama.block_count", 3)
      .f32("llama.eps", 1e-5f)
      .flag("yes", true)
      .texts("list", {"a", "", "\xc3\xa9"})
      .i32s("numbers", {1, -2, 3})
      .tensor("a.weight", {3, 2}, {1, 2, 3, 4, 5, 6})
      .tensor("b", {1}, {7});
}

// "" when it is read.
std::string problem(const std::string& bytes, const std::function<void(const GgufFile&)>& use = {}) {
  try {
    const GgufFile file("x.gguf", std::as_bytes(std::span(bytes)));
    if (use) use(file);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kConfig) << e.what();
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
    EXPECT_TRUE(std::string(e.what()).starts_with("x.gguf: ")) << e.what();
    return e.what();
  }
  return "";
}
void expect_problem(const std::string& bytes, const std::string& part,
                    const std::function<void(const GgufFile&)>& use = {}) {
  const std::string said = problem(bytes, use);
  EXPECT_NE(said.find(part), std::string::npos) << "\"" << said << "\" without \"" << part << "\"";
}

TEST(GgufFileTest, MetadataAndTensors) {
  for (const uint32_t version : {2u, 3u}) {
    GgufBuilder b = small();
    b.version = version;
    const std::string bytes = b.bytes();
    const GgufFile f("x.gguf", std::as_bytes(std::span(bytes)));
    EXPECT_EQ(f.text("general.architecture"), "llama");
    EXPECT_EQ(f.integer("llama.block_count"), 3);
    EXPECT_EQ(f.number("llama.block_count"), 3);
    EXPECT_EQ(f.number("llama.eps"), 1e-5);  // not what 1e-5f is as a double
    EXPECT_TRUE(f.flag("yes"));
    EXPECT_EQ(f.texts("list"), (std::vector<std::string_view>{"a", "", "\xc3\xa9"}));
    EXPECT_EQ(f.integers("numbers"), (std::vector<int64_t>{1, -2, 3}));
    EXPECT_EQ(f.keys("llama."), (std::vector<std::string>{"llama.block_count", "llama.eps"}));
    const GgufTensor& a = f.tensors().at("a.weight");
    EXPECT_EQ(a.shape, (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(a.bytes, 24);
    float sixth = 0;
    std::memcpy(&sixth, a.data + 20, sizeof sixth);
    EXPECT_EQ(sixth, 6);
  }
}

TEST(GgufFileTest, AFileOfThePythonPackage) {
  const GgufFile f("tests/fixtures/gguf/llama.gguf");
  EXPECT_EQ(f.text("general.architecture"), "llama");
  EXPECT_EQ(f.tensors().at("blk.1.ffn_gate.weight").type, GgufType::kQ4_0);
  EXPECT_EQ(f.tensors().at("blk.1.ffn_gate.weight").shape, (std::vector<int64_t>{80, 32}));
}

TEST(GgufFileTest, EveryCutAndAnyChangedByteIsSeenOrHarmless) {
  const std::string good = small().bytes();
  EXPECT_EQ(problem(good), "");
  for (size_t size = 0; size < good.size(); ++size) EXPECT_NE(problem(good.substr(0, size)), "") << size;
  expect_problem(good + std::string(64, '\0'), "but the last tensor ends at byte");
  int64_t refused = 0;
  for (size_t at = 0; at < good.size(); ++at) {
    for (const char byte : {'\x00', '\x01', '\x7f', '\x80', '\xff'}) {
      std::string bad = good;
      bad[at] = byte;
      refused += !problem(bad, [](const GgufFile& f) {
                    for (const std::string& key : f.keys(""))
                      for (const auto& use : std::vector<std::function<void()>>{
                               [&] { f.integer(key); }, [&] { f.number(key); }, [&] { f.flag(key); },
                               [&] { f.text(key); }, [&] { f.texts(key); }, [&] { f.integers(key); }}) {
                        try {
                          use();
                        } catch (const Error&) {
                        }
                      }
                  }).empty();
    }
  }
  EXPECT_GT(refused, 500);
}

TEST(GgufFileTest, HostileHeads) {
  const std::string good = small().bytes();
  const auto with = [&](size_t at, const std::string& bytes) {
    std::string bad = good;
    return bad.replace(at, bytes.size(), bytes);
  };
  expect_problem("", "not a GGUF file");
  expect_problem("GGML" + good.substr(4), "not a GGUF file");
  expect_problem(with(4, raw<uint32_t>(1)), "version 1 of GGUF is not supported");
  expect_problem(with(4, raw<uint32_t>(0x03000000)), "little-endian");
  expect_problem(with(8, raw<uint64_t>(UINT64_MAX)), "more than 250000 and 65536");
  expect_problem(with(16, raw<uint64_t>(UINT64_MAX)), "more than 250000 and 65536");
  expect_problem(with(16, raw<uint64_t>(60000)), "are left");
  expect_problem(with(24, raw<uint64_t>(UINT64_MAX)), "key 0: 18446744073709551615 bytes at byte 32");
}

TEST(GgufFileTest, HostileEntries) {
  const auto entry = [](uint32_t type, const std::string& value) {
    return GgufBuilder().add("k", type, value).bytes();
  };
  expect_problem(entry(13, raw<uint64_t>(0)), "k: a value of unknown type 13");
  expect_problem(entry(kArray, raw(kArray) + raw<uint64_t>(1) + raw<uint64_t>(0)), "unknown type 9");
  for (const uint64_t count : {uint64_t{1} << 61, UINT64_MAX, uint64_t{1} << 40}) {
    expect_problem(entry(kArray, raw(kU64) + raw(count)), "values, where");
    expect_problem(entry(kArray, raw(kString) + raw(count)), "values, where");
  }
  expect_problem(entry(kString, raw<uint64_t>(UINT64_MAX - 3)), "k: 18446744073709551612 bytes");
  expect_problem(GgufBuilder().u32("k", 1).u32("k", 1).bytes(), "k: the key is there twice");
  expect_problem(GgufBuilder().u32("", 1).bytes(), "key 0: not 1 to 65536 letters");
  expect_problem(GgufBuilder().u32("a\nb", 1).bytes(), "key 0: not 1 to 65536 letters");
  for (const uint32_t alignment : {0u, 3u, 24u, 1u << 17})
    expect_problem(GgufBuilder().u32("general.alignment", alignment).bytes(), "no power of two");

  const auto use = [](const std::string& bytes, const std::string& part, const auto& what) {
    expect_problem(bytes, part, [&](const GgufFile& f) { what(f); });
  };
  use(small().bytes(), "none: missing", [](const GgufFile& f) { f.integer("none"); });
  use(small().bytes(), "yes: a bool, not an integer", [](const GgufFile& f) { f.integer("yes"); });
  use(small().bytes(), "list: an array, not one value", [](const GgufFile& f) { f.text("list"); });
  use(small().bytes(), "yes: not an array", [](const GgufFile& f) { f.texts("yes"); });
  use(small().bytes(), "numbers: i32, not text", [](const GgufFile& f) { f.texts("numbers"); });
  use(small().bytes(), "list: a string, not an integer", [](const GgufFile& f) { f.integers("list"); });
  use(entry(kBool, "\x02"), "k: not true or false", [](const GgufFile& f) { f.flag("k"); });
  use(entry(kString, text("\xc3")), "k: text 0 is not UTF-8", [](const GgufFile& f) { f.text("k"); });
  use(entry(kU64, raw(UINT64_MAX)), "is beyond 2^63", [](const GgufFile& f) { f.integer("k"); });
  use(entry(kF32Value, raw<uint32_t>(0x7F800000)), "is not finite", [](const GgufFile& f) { f.number("k"); });
}

TEST(GgufFileTest, HostileTensors) {
  const auto one = [](const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset = 0,
                      const std::string& name = "t") {
    GgufBuilder b;
    b.describe(name, dims, type, offset).data.assign(96, '\0');
    return b.bytes();
  };
  EXPECT_EQ(problem(one({24}, kTensorF32)), "");
  expect_problem(one({}, kTensorF32), "tensor t: 0 dimensions");
  expect_problem(one({1, 1, 1, 1, 1}, kTensorF32), "tensor t: 5 dimensions");
  expect_problem(one({0}, kTensorF32), "a dimension of 0");
  expect_problem(one({UINT64_MAX}, kTensorF32), "a dimension of 18446744073709551615");
  const uint64_t large = uint64_t{1} << 40;
  expect_problem(one({large, large}, kTensorF32), "tensor t: too large");
  expect_problem(one({large, large, large, large}, kTensorF32), "tensor t: too large");
  expect_problem(one({large}, kTensorF32), "4398046511104 bytes at byte 0 of the data");
  expect_problem(one({25}, kTensorF32), "tensor");
  expect_problem(one({32}, 6), "tensor t: Q5_0 is not supported: F32, F16, BF16,");
  expect_problem(one({32}, 77), "tensor t: type 77 is not supported");
  expect_problem(one({33}, 2), "rows of 33 values are not whole blocks of Q4_0");
  expect_problem(one({128, 2}, 12), "rows of 128 values are not whole blocks of Q4_K");
  expect_problem(one({24}, kTensorF32, 32), "its data begin at byte 32 instead of 0");
  expect_problem(one({24}, kTensorF32, UINT64_MAX), "instead of 0");
  expect_problem(one({24}, kTensorF32, 0, std::string(64, 'n')), "tensor 0: not 1 to 63 letters");
  GgufBuilder b;
  b.describe("t", {12}, kTensorF32, 0).describe("t", {8}, kTensorF32, 64).data.assign(96, '\0');
  expect_problem(b.bytes(), "tensor t is there twice");
  b = GgufBuilder();
  b.describe("t", {12}, kTensorF32, 0).describe("u", {8}, kTensorF32, 32).data.assign(96, '\0');
  expect_problem(b.bytes(), "tensor u: its data begin at byte 32 instead of 64");
}

TEST(GgufFileTest, FilesThatAreNone) {
  for (const char* path : {"tests", "tests/none.gguf", "/dev/null"}) {
    try {
      const GgufFile f(path);
      ADD_FAILURE() << path;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kConfig);
      EXPECT_NE(std::string(e.what()).find(path), std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace contender
