#include "checkpoint/safetensors.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/philox.h"

namespace contender {
namespace {

namespace fs = std::filesystem;

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class SafetensorsTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "/safetensors_test." + std::to_string(::getpid());
    fs::create_directories(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }

  std::string put(const std::string& bytes) {
    const std::string path = dir_ + "/x.safetensors";
    fs::remove(path);  // some file systems sync a file that is cut and written again
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }
  // A file of this header and data; the message of its refusal, "" when it is accepted.
  std::string refusal(const std::string& header, const std::string& data = "") {
    uint64_t length = header.size();
    return refusal_of_bytes(std::string(reinterpret_cast<const char*>(&length), 8) + header + data);
  }
  std::string refusal_of_bytes(const std::string& bytes) {
    const std::string path = put(bytes);
    try {
      SafetensorsFile file(path);
      return "";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kConfig) << e.what();
      EXPECT_NE(std::string(e.what()).find(path), std::string::npos) << e.what();
      return e.what();
    }
  }
  std::string dir_;
};

#define EXPECT_REFUSED(text, ...) \
  EXPECT_NE(refusal(__VA_ARGS__).find(text), std::string::npos) << refusal(__VA_ARGS__)

TEST_F(SafetensorsTest, RoundTrip) {
  PhiloxSequence random(1, RandomStream::kTest, 1);
  std::vector<float> matrix(7 * 5);
  for (float& v : matrix)
    v = std::ldexp(normal01(random.next(), random.next()), static_cast<int>(random.below(60)) - 30);
  const std::string bytes = "any\0bytes" + std::string(3, '\xff');
  const uint16_t half[6] = {0x3C00, 0x8001, 0x7BFF, 0xFC00, 0x0400, 0x8000};
  const uint16_t brain[2] = {0x3F80, 0xC0A0};
  SafetensorsWriter writer;
  writer.set_metadata("run", "a \"quoted\" one");
  // Columns 1..4 of the matrix: a view with another stride.
  writer.add("part", DType::kF32, {7, 3}, [&] { return f32_tensor(matrix.data(), 7, 5).col_range(1, 4); });
  writer.add("bytes", DType::kU8, {static_cast<int64_t>(bytes.size())}, [&] {
    return Tensor(const_cast<char*>(bytes.data()), DType::kU8, 1, static_cast<int64_t>(bytes.size()));
  });
  writer.add("half", DType::kF16, {2, 3},
             [&] { return Tensor(const_cast<uint16_t*>(half), DType::kF16, 2, 3); });
  writer.add("brain", DType::kBF16, {1, 2, 1},
             [&] { return Tensor(const_cast<uint16_t*>(brain), DType::kBF16, 2, 1); });
  writer.add("none", DType::kF32, {0, 4}, [] { return Tensor(nullptr, DType::kF32, 0, 4); });
  Storage storage(0);
  const std::string path = dir_ + "/a.safetensors";
  const FileRecord record = writer.write(storage, path);
  EXPECT_EQ(record.name, "a.safetensors");
  EXPECT_EQ(record.bytes, static_cast<int64_t>(fs::file_size(path)));
  EXPECT_EQ(file_problem(path, record), "");

  const SafetensorsFile file(path);
  EXPECT_EQ(file.metadata().at("run"), "a \"quoted\" one");
  ASSERT_EQ(file.tensors().size(), 5u);
  std::vector<float> got(4 * 10, NAN);
  file.read("part", 2, 4, 1, 2, got.data(), 10);
  for (int64_t r = 0; r < 4; ++r) {
    for (int64_t c = 0; c < 2; ++c) EXPECT_EQ(got[r * 10 + c], matrix[(r + 2) * 5 + c + 2]);
    EXPECT_TRUE(std::isnan(got[r * 10 + 2]));  // nothing beyond the columns
  }
  file.read("half", 0, 2, 0, 3, got.data(), 3);
  const float expected[6] = {1.0f, -0x1p-24f, 65504.0f, -INFINITY, 0x1p-14f, -0.0f};
  for (int i = 0; i < 6; ++i)
    EXPECT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(expected[i])) << i;
  file.read("brain", 0, 2, 0, 1, got.data(), 1);
  EXPECT_EQ(got[0], 1.0f);
  EXPECT_EQ(got[1], -5.0f);
  EXPECT_EQ(file.info("none").rows(), 0);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(file.data(file.info("bytes"))), bytes.size()), bytes);
  EXPECT_THROW(file.read("bytes", 0, 1, 0, 1, got.data(), 1), Error);
  EXPECT_THROW(file.read("part", 6, 2, 0, 1, got.data(), 1), Error);
  EXPECT_THROW(file.info("absent"), Error);
}

TEST_F(SafetensorsTest, DataBeginsAlignedAndTheLayoutIsTheOneOfTheFormat) {
  const float value = 1.5f;
  SafetensorsWriter writer;
  writer.add("w", DType::kF32, {1}, [&] { return f32_tensor(const_cast<float*>(&value), 1, 1); });
  Storage storage(0);
  writer.write(storage, dir_ + "/b.safetensors");
  const std::string bytes = read_file(dir_ + "/b.safetensors");
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  EXPECT_EQ(length % 8, 0u);
  EXPECT_TRUE(bytes.substr(8).starts_with(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})"));
  EXPECT_EQ(bytes.size(), 8 + length + 4);
}

TEST_F(SafetensorsTest, RefusesLiesAboutLengths) {
  EXPECT_EQ(refusal("{}"), "");
  EXPECT_EQ(refusal("{}   "), "");
  for (const std::string& bytes : {std::string(), std::string("1234567"), std::string(8, '\0')})
    EXPECT_NE(refusal_of_bytes(bytes), "");
  std::string huge(16, '\xff');
  EXPECT_NE(refusal_of_bytes(huge).find("more than 100 MB"), std::string::npos);
  uint64_t length = 50'000'000;
  EXPECT_NE(
      refusal_of_bytes(std::string(reinterpret_cast<const char*>(&length), 8) + "{}").find("in a file of 10"),
      std::string::npos);
  EXPECT_REFUSED("end at byte 0 of 1", "{}", "x");
  EXPECT_REFUSED("start with {", " {}");
  EXPECT_REFUSED("start with {", "\xEF\xBB\xBF{}");
  EXPECT_REFUSED("not the JSON", "{");
  EXPECT_REFUSED("follows", "{}}");
  EXPECT_REFUSED("not the JSON", R"({"__metadata__":{"a":")"
                                 "\xff\"}}");  // not UTF-8
  EXPECT_REFUSED("not the JSON", std::string("{}\0junk", 7));
}

std::string tensor_json(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

TEST_F(SafetensorsTest, RefusesBadTensors) {
  const std::string four(4, 'd');
  EXPECT_EQ(refusal("{\"a\":" + tensor_json("F32", "[1]", "[0,4]") + "}", four), "");
  EXPECT_EQ(refusal("{\"a\":" + tensor_json("F32", "[]", "[0,4]") + "}", four), "");
  EXPECT_REFUSED("\"a\": unknown dtype \"F31\"", "{\"a\":" + tensor_json("F31", "[1]", "[0,4]") + "}", four);
  EXPECT_REFUSED("shape x dtype", "{\"a\":" + tensor_json("F32", "[2]", "[0,4]") + "}", four);
  // Products that wrap to the right number: 2^62 x 4 x ... = 0, and (2^32 + 1) (2^32 - 1) = -1.
  EXPECT_REFUSED("shape x dtype", "{\"a\":" + tensor_json("F32", "[4611686018427387904,4]", "[0,0]") + "}");
  EXPECT_REFUSED("shape x dtype",
                 "{\"a\":" + tensor_json("U8", "[4294967297,4294967295,4294967297]", "[0,4]") + "}", four);
  EXPECT_REFUSED("beyond 2^63", "{\"a\":" + tensor_json("U8", "[18446744073709551615]", "[0,4]") + "}", four);
  EXPECT_REFUSED("not the JSON", "{\"a\":" + tensor_json("F32", "[-1]", "[0,4]") + "}", four);
  EXPECT_REFUSED("not the JSON", "{\"a\":" + tensor_json("F32", "[1.0]", "[0,4]") + "}", four);
  EXPECT_REFUSED("not the JSON", "{\"a\":" + tensor_json("F32", "[[1]]", "[0,4]") + "}", four);
  EXPECT_REFUSED("more than 8", "{\"a\":" + tensor_json("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") + "}", four);
  EXPECT_REFUSED("not [begin, end]", "{\"a\":" + tensor_json("F32", "[1]", "[4,0]") + "}", four);
  EXPECT_REFUSED("not [begin, end]", "{\"a\":" + tensor_json("F32", "[1]", "[0,4,4]") + "}", four);
  EXPECT_REFUSED("missing", R"({"a":{"dtype":"F32","shape":[1]}})", four);
  EXPECT_REFUSED("unknown key \"extra\"", R"({"a":{"dtype":"F32","extra":1}})", four);
  EXPECT_REFUSED("duplicate key \"shape\"", R"({"a":{"shape":[1],"shape":[1]}})", four);
  EXPECT_REFUSED("not the JSON", R"({"a":null})");
  EXPECT_REFUSED("not the JSON", R"({"a":{"dtype":{"b":1}}})");
  const std::string a = "\"a\":" + tensor_json("F32", "[1]", "[0,4]");
  EXPECT_REFUSED("duplicate key", "{" + a + "," + a + "}", four);
  EXPECT_REFUSED("duplicate key", R"({"__metadata__":{},"__metadata__":{}})");
  EXPECT_REFUSED("duplicate metadata key", R"({"__metadata__":{"k":"1","k":"2"}})");
  EXPECT_REFUSED("not the JSON", R"({"__metadata__":{"k":1}})");
  EXPECT_REFUSED("not the JSON", R"({"__metadata__":{"k":{"deeper":"x"}}})");
}

TEST_F(SafetensorsTest, RefusesEverythingThatOnlyResemblesJson) {
  const std::string four(4, 'd');
  const std::string good = tensor_json("F32", "[1,1]", "[0,4]");
  ASSERT_EQ(refusal("{\"a\":" + good + "}", four), "");
  for (const std::string& header : {"{\"a\":" + good + ",}",
                                    "{\"a\":" + good + "}{}",
                                    "{\"a\":" + good + "}x",
                                    "{\"a\" " + good + "}",
                                    "{'a':" + good + "}",
                                    "{a:" + good + "}",
                                    "{,\"a\":" + good + "}",
                                    "{\"a\":" + good + "]",
                                    "{\"a\"::" + good + "}",
                                    "{\"a\nb\":" + good + "}",
                                    "{\"a\\q\":" + good + "}",
                                    "{\"a\\ud800\":" + good + "}",
                                    "{/**/\"a\":" + good + "}",
                                    "{\"a\":" + tensor_json("F32", "[1 1]", "[0,4]") + "}",
                                    "{\"a\":" + tensor_json("F32", "[1,1,]", "[0,4]") + "}",
                                    "{\"a\":" + tensor_json("F32", "[,1,1]", "[0,4]") + "}",
                                    "{\"a\":" + tensor_json("F32", "[01,1]", "[0,4]") + "}",
                                    "{\"a\":" + tensor_json("F32", "[+1,1]", "[0,4]") + "}",
                                    "{\"a\":" + tensor_json("F32", "[1x,1]", "[0,4]") + "}",
                                    "{\"a\":" + tensor_json("F32", "[1e0,1]", "[0,4]") + "}",
                                    "{\"a\":" + tensor_json("F32", "[1,1}", "[0,4]") + "}",
                                    "{\"a\":" + tensor_json("F32\"x,\"", "[1,1]", "[0,4]") + "}"})
    EXPECT_NE(refusal(header, four), "") << header;
}

// A header of nearly the largest size, all of it tensors; the bound is a second, with room here for a busy
// machine.
TEST_F(SafetensorsTest, HostileHeaderEndsSoon) {
  std::string header = "{";
  for (int i = 0; header.size() < 99'900'000; ++i)
    header += (i ? ",\"" : "\"") + std::to_string(i) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  header += "}";
  const uint64_t length = header.size();
  header.insert(0, reinterpret_cast<const char*>(&length), 8);
  const std::string path = put(header);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THROW(SafetensorsFile{path}, Error);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
#ifdef __SANITIZE_ADDRESS__
  EXPECT_LT(seconds.count(), 30);
#else
  EXPECT_LT(seconds.count(), 3);
#endif
}

TEST_F(SafetensorsTest, RefusesHolesAndOverlaps) {
  const auto two = [](const std::string& first, const std::string& second) {
    return "{\"a\":" + tensor_json("F32", "[1]", first) + ",\"b\":" + tensor_json("F32", "[1]", second) + "}";
  };
  EXPECT_EQ(refusal(two("[0,4]", "[4,8]"), std::string(8, 'x')), "");
  EXPECT_EQ(refusal(two("[4,8]", "[0,4]"), std::string(8, 'x')), "");  // any order in the header
  EXPECT_REFUSED("instead of 4", two("[0,4]", "[5,9]"), std::string(9, 'x'));
  EXPECT_REFUSED("instead of 4", two("[0,4]", "[0,4]"), std::string(4, 'x'));
  EXPECT_REFUSED("instead of 4", two("[0,4]", "[3,7]"), std::string(7, 'x'));
  EXPECT_REFUSED("instead of 0", two("[4,8]", "[8,12]"), std::string(12, 'x'));
  EXPECT_REFUSED("end at byte 8 of 7", two("[0,4]", "[4,8]"), std::string(7, 'x'));
  EXPECT_REFUSED("end at byte 8 of 9", two("[0,4]", "[4,8]"), std::string(9, 'x'));
}

TEST_F(SafetensorsTest, DeepNestingEndsAtOnce) {
  const std::string deep(5'000'000, '[');
  EXPECT_REFUSED("not the JSON", "{\"a\":" + deep);
  EXPECT_REFUSED("not the JSON", "{\"__metadata__\":" + deep);
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  EXPECT_REFUSED("not the JSON", objects);
  EXPECT_REFUSED("unknown key", objects + "1" + std::string(100'000, '}'));
}

TEST_F(SafetensorsTest, SourcesAreAllAskedAfterAFailure) {
  int asked = 0;
  float value = 1;
  SafetensorsWriter writer;
  for (const char* name : {"a", "b", "c"}) {
    writer.add(name, DType::kF32, {1, 1}, [&] {
      ++asked;
      return f32_tensor(&value, 1, 1);
    });
  }
  Storage storage(0);
  EXPECT_THROW(writer.write(storage, dir_ + "/no/such/dir.safetensors"), Error);
  EXPECT_EQ(asked, 3);
}

// 5,000 mutations of a small file: each is read whole or refused, in little memory.
TEST_F(SafetensorsTest, MutationsNeverCrash) {
  SafetensorsWriter writer;
  std::vector<float> values(24, 1.25f);
  writer.set_metadata("run_id", "r");
  writer.add("layers.0.weight", DType::kF32, {3, 4}, [&] { return f32_tensor(values.data(), 3, 4); });
  writer.add("norm", DType::kF32, {12}, [&] { return f32_tensor(values.data(), 1, 12); });
  Storage storage(0);
  writer.write(storage, dir_ + "/seed.safetensors");
  const std::string seed = read_file(dir_ + "/seed.safetensors");
  const std::string spice = "{}[]\":,0123456789-.eE\\u\xff\0F_";
  rusage before{};
  ::getrusage(RUSAGE_SELF, &before);
  PhiloxSequence random(7, RandomStream::kTest, 2);
  int accepted = 0;
  for (int i = 0; i < 5000; ++i) {
    std::string bytes = seed;
    for (uint32_t edits = 1 + random.below(3); edits > 0; --edits) {
      const size_t at = random.below(static_cast<uint32_t>(bytes.size()));
      switch (random.below(5)) {
        case 0:
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << random.below(8)));
          break;
        case 1:
          bytes[at] = spice[random.below(static_cast<uint32_t>(spice.size()))];
          break;
        case 2:
          bytes.erase(at, 1 + random.below(8));
          break;
        case 3:
          bytes.insert(at, bytes.substr(random.below(static_cast<uint32_t>(bytes.size())), random.below(24)));
          break;
        default:
          bytes.resize(at);
          break;
      }
      if (bytes.empty()) bytes = "x";
    }
    const std::string path = put(bytes);
    try {
      const SafetensorsFile file(path);
      ++accepted;
      uint64_t length = 0;
      std::memcpy(&length, bytes.data(), 8);
      const std::string header = bytes.substr(8, length);
      EXPECT_TRUE(nlohmann::json::accept(header) && header.find('\0') == std::string::npos) << header;
      for (const auto& [name, info] : file.tensors()) {
        std::vector<float> got(static_cast<size_t>(info.rows() * info.cols()));
        if (info.dtype == DType::kF32)
          file.read(name, 0, info.rows(), 0, info.cols(), got.data(), info.cols());
      }
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kConfig) << e.what();
    }
  }
  EXPECT_GT(accepted, 50);  // data bits, names: not everything is structure
  EXPECT_LT(accepted, 4000);
  rusage after{};
  ::getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 64 * 1024);  // KiB
}

}  // namespace
}  // namespace contender
