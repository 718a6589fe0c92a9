#include "checkpoint/checkpoint.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "base/job.h"
#include "base/log.h"
#include "base/philox.h"

namespace contender {
namespace {

namespace fs = std::filesystem;

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void write_file(const std::string& path, const std::string& bytes) {
  fs::remove(path);  // some file systems sync a file that is cut and written again
  std::ofstream(path, std::ios::binary) << bytes;
}

// Ranks as threads: each call returns what every rank said.
class ThreadGather {
 public:
  explicit ThreadGather(int size) : size_(size), said_(static_cast<size_t>(size)) {}
  std::vector<std::string> gather(int rank, const std::string& mine) {
    std::unique_lock lock(mutex_);
    said_[static_cast<size_t>(rank)] = mine;
    const int64_t round = round_;
    if (++arrived_ == size_) {
      heard_ = said_;
      arrived_ = 0;
      ++round_;
      all_.notify_all();
    }
    all_.wait(lock, [&] { return round_ != round; });
    return heard_;
  }

 private:
  int size_;
  int arrived_ = 0;
  int64_t round_ = 0;
  std::vector<std::string> said_, heard_;
  std::mutex mutex_;
  std::condition_variable all_;
};

constexpr int64_t kRows = 6, kCols = 5;

// The value of an element at a step: every checkpoint differs everywhere.
float element(int64_t step, int64_t tensor, int64_t row, int64_t col) {
  const PhiloxBlock b =
      philox(static_cast<uint64_t>(step), RandomStream::kTest, static_cast<uint64_t>(tensor),
             static_cast<uint32_t>(row), static_cast<uint32_t>(col));
  return std::ldexp(normal01(b[0], b[1]), static_cast<int>(b[2] % 40) - 20);
}

std::vector<float> full_tensor(int64_t step, int64_t tensor, int64_t rows, int64_t cols) {
  std::vector<float> out(static_cast<size_t>(rows * cols));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) out[static_cast<size_t>(r * cols + c)] = element(step, tensor, r, c);
  }
  return out;
}

CheckpointInfo make_info(int64_t step, const std::string& run_id = "run-a") {
  return {run_id, step, {2, 1, 1, 2}, "config", "tokenizer", fmt::format("{{\"cursor\":{}}}", step * 10)};
}

struct SaveOptions {
  int ranks = 2;
  std::string run_id = "run-a";
  int64_t keep_last = 100;
  int64_t keep_every = 0;
};

// Rows of "w" are dealt to the ranks, "norm" is whole on rank 0, "opt.m/w" is cut flat, "state" is bytes of
// the last rank.
void save_as(const std::string& dir, int64_t step, int rank, const SaveOptions& options,
             const AllGather& gather) {
  const std::vector<float> w = full_tensor(step, 1, kRows, kCols);
  const std::vector<float> norm = full_tensor(step, 2, 1, kCols);
  const std::vector<float> moment = full_tensor(step, 3, kRows, kCols);
  std::string bytes = fmt::format("rollouts of step {}", step);
  const auto view = [](const std::vector<float>& v, int64_t at, int64_t rows, int64_t cols) {
    return [data = const_cast<float*>(v.data()) + at, rows, cols] { return f32_tensor(data, rows, cols); };
  };
  CheckpointWriter writer(dir, make_info(step, options.run_id), rank, gather);
  const int64_t begin = kRows * rank / options.ranks;
  const int64_t end = kRows * (rank + 1) / options.ranks;
  std::vector<ShardTensor> model = {{"w", DType::kF32, end - begin, kCols, kRows, kCols, begin, 0,
                                     view(w, begin * kCols, end - begin, kCols)}};
  if (rank == 0) model.push_back({"norm", DType::kF32, 1, kCols, 1, kCols, 0, 0, view(norm, 0, 1, kCols)});
  if (rank == options.ranks - 1) {
    const auto n = static_cast<int64_t>(bytes.size());
    model.push_back({"state", DType::kU8, 1, n, 1, n, 0, 0,
                     [&bytes, n] { return Tensor(bytes.data(), DType::kU8, 1, n); }});
  }
  writer.add_file(fmt::format("model-{}.safetensors", rank), model);
  std::vector<ShardTensor> optimizer;
  const int64_t numel = kRows * kCols;
  const int64_t flat_begin = numel * rank / options.ranks;
  for (const FlatRegion& f : flat_regions(kCols, flat_begin, numel * (rank + 1) / options.ranks)) {
    optimizer.push_back({"opt.m/w", DType::kF32, f.rows, f.cols, kRows, kCols, f.row_begin, f.col_begin,
                         view(moment, flat_begin + f.flat, f.rows, f.cols)});
  }
  writer.add_file(fmt::format("optimizer-{}.safetensors", rank), optimizer);
  writer.commit(options.keep_last, options.keep_every);
}

// On threads, one per rank; the messages of the ranks that failed.
std::vector<std::string> save(const std::string& dir, int64_t step, const SaveOptions& options = {}) {
  ThreadGather gather(options.ranks);
  std::vector<std::string> errors(static_cast<size_t>(options.ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < options.ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        save_as(dir, step, rank, options,
                [&, rank](const std::string& mine) { return gather.gather(rank, mine); });
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ExitCode::kStorage);
        errors[static_cast<size_t>(rank)] = e.what();
      }
    });
  }
  for (std::thread& t : threads) t.join();
  return errors;
}

void expect_content(const std::string& path, int64_t step) {
  const Checkpoint checkpoint(path);
  EXPECT_EQ(checkpoint.info().step, step);
  EXPECT_EQ(checkpoint.info().state, fmt::format("{{\"cursor\":{}}}", step * 10));
  std::vector<float> got(kRows * kCols, NAN);
  checkpoint.read_region("w", 0, kRows, 0, kCols, got.data(), kCols);
  EXPECT_EQ(got, full_tensor(step, 1, kRows, kCols));
  checkpoint.read_region("opt.m/w", 0, kRows, 0, kCols, got.data(), kCols);
  EXPECT_EQ(got, full_tensor(step, 3, kRows, kCols));
  got.resize(kCols);
  checkpoint.read_region("norm", 0, 1, 0, kCols, got.data(), kCols);
  EXPECT_EQ(got, full_tensor(step, 2, 1, kCols));
  EXPECT_EQ(checkpoint.read_bytes("state"), fmt::format("rollouts of step {}", step));
}

std::vector<std::string> names_in(const std::string& dir) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

// The reason why nothing in `dir` is usable; "" when something is.
std::string refusal(const std::string& dir) {
  try {
    return find_checkpoint(dir) ? "" : "none";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kNoCheckpoint) << e.what();
    return e.what();
  }
}

class CheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    // Hundreds of saves, each synced several times: in memory where that is possible.
    const std::string base = ::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : testing::TempDir();
    dir_ = base + "/checkpoint_test." + std::to_string(::getpid());
    fs::remove_all(dir_);
    set_log_level(LogLevel::kError);  // refusals are the point here
  }
  void TearDown() override {
    set_log_level(LogLevel::kInfo);
    fs::remove_all(dir_);
  }
  std::string dir_;
};

TEST_F(CheckpointTest, FlatShardsAreRectangles) {
  for (int64_t cols = 1; cols <= 7; ++cols) {
    for (int64_t begin = 0; begin <= 20; ++begin) {
      for (int64_t end = begin; end <= 20; ++end) {
        int64_t at = begin;
        const std::vector<FlatRegion> regions = flat_regions(cols, begin, end);
        EXPECT_LE(regions.size(), 3u);
        for (const FlatRegion& f : regions) {
          EXPECT_EQ(f.flat, at - begin);
          EXPECT_EQ(f.row_begin * cols + f.col_begin, at);
          EXPECT_TRUE(f.rows == 1 || f.cols == cols);
          EXPECT_LE(f.col_begin + f.cols, cols);
          at += f.rows * f.cols;
        }
        EXPECT_EQ(at, end);
      }
    }
  }
}

TEST_F(CheckpointTest, NothingThereIsNotAnError) {
  EXPECT_EQ(find_checkpoint(dir_), std::nullopt);
  fs::create_directories(dir_ + "/step_x");
  fs::create_directories(dir_ + "/step_5.tmp-0-0");
  fs::create_directories(dir_ + "/step_-3");
  EXPECT_EQ(find_checkpoint(dir_), std::nullopt);
}

TEST_F(CheckpointTest, AnyLayoutReadsAnyOther) {
  for (const int ranks : {1, 2, 3, 4}) {
    for (const std::string& error : save(dir_, ranks, {.ranks = ranks})) EXPECT_EQ(error, "");
    const std::optional<std::string> path = find_checkpoint(dir_);
    ASSERT_EQ(path, fmt::format("{}/step_{}", dir_, ranks));
    expect_content(*path, ranks);
    EXPECT_EQ(read_file(dir_ + "/latest"), fmt::format("step_{}\n", ranks));
    const Checkpoint checkpoint(*path);
    EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"norm", "opt.m/w", "state", "w"}));
    EXPECT_EQ(checkpoint.shape("opt.m/w").rows, kRows);
    EXPECT_EQ(checkpoint.info().layout.tp, 2);
    // Every rectangle, into a wider destination that keeps its other values.
    const std::vector<float> expected = full_tensor(ranks, 3, kRows, kCols);
    for (int64_t r0 = 0; r0 < kRows; ++r0) {
      for (int64_t c0 = 0; c0 < kCols; ++c0) {
        std::vector<float> got(static_cast<size_t>((kRows - r0) * 9), -7.0f);
        checkpoint.read_region("opt.m/w", r0, kRows - r0, c0, kCols - c0, got.data(), 9);
        for (int64_t r = r0; r < kRows; ++r) {
          for (int64_t c = c0; c < c0 + 9; ++c)
            EXPECT_EQ(got[static_cast<size_t>((r - r0) * 9 + c - c0)],
                      c < kCols ? expected[static_cast<size_t>(r * kCols + c)] : -7.0f);
        }
      }
    }
  }
  const Checkpoint checkpoint(dir_ + "/step_4");
  float value = 0;
  EXPECT_THROW(checkpoint.read_region("absent", 0, 1, 0, 1, &value, 1), Error);
  EXPECT_THROW(checkpoint.read_bytes("w"), Error);
  try {
    checkpoint.read_region("w", 5, 2, 0, 1, &value, 1);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kLayout);
    EXPECT_NE(std::string(e.what()).find("\"w\" is 6 x 5"), std::string::npos);
  }
}

TEST_F(CheckpointTest, HolesAndOverlapsAreNamed) {
  std::vector<float> data(kRows * kCols, 1);
  const auto part = [&](int64_t row, int64_t rows) {
    return ShardTensor{"w",   DType::kF32, rows,
                       kCols, kRows,       kCols,
                       row,   0,           [&data, rows] { return f32_tensor(data.data(), rows, kCols); }};
  };
  const AllGather alone = [](const std::string& mine) { return std::vector{mine}; };
  CheckpointWriter writer(dir_, make_info(1), 0, alone);
  writer.add_file("a.safetensors", {part(0, 2), part(3, 3)});
  writer.add_file("b.safetensors", {part(4, 1)});
  const Checkpoint checkpoint(writer.commit(1, 0));
  const auto message = [&](int64_t row, int64_t rows) -> std::string {
    try {
      checkpoint.read_region("w", row, rows, 0, kCols, data.data(), kCols);
      return "";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kNoCheckpoint);
      return e.what();
    }
  };
  EXPECT_EQ(message(0, 2), "");
  EXPECT_EQ(message(3, 1), "");
  EXPECT_NE(message(0, 3).find("no shard has rows 2 to 3, columns 0 to 5 of \"w\""), std::string::npos);
  EXPECT_NE(message(3, 3).find("two shards hold the same part of \"w\""), std::string::npos);
}

TEST_F(CheckpointTest, ChunksOfABigFile) {
  const int64_t n = 9 * (1 << 20) / 4 + 3;  // two chunks and a piece
  std::vector<float> data(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) data[static_cast<size_t>(i)] = static_cast<float>(i);
  const AllGather alone = [](const std::string& mine) { return std::vector{mine}; };
  CheckpointWriter writer(dir_, make_info(1), 0, alone);
  writer.add_file("big.safetensors",
                  {{"x", DType::kF32, 1, n, 1, n, 0, 0, [&] { return f32_tensor(data.data(), 1, n); }}});
  const std::string path = writer.commit(1, 0);
  ASSERT_EQ(find_checkpoint(dir_), path);
  ASSERT_EQ(Checkpoint(path).manifest().files[0].record.chunk_hashes.size(), 3u);
  for (const int64_t at : {int64_t{5} << 20, int64_t{9} << 20}) {
    std::fstream file(path + "/big.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(at);
    const char old = static_cast<char>(file.get());
    file.seekp(at);
    file.put(static_cast<char>(old ^ 4));
    file.close();
    EXPECT_NE(refusal(dir_).find("big.safetensors: checksum of bytes " + std::to_string(at >> 22 << 22)),
              std::string::npos);
    std::fstream again(path + "/big.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    again.seekp(at);
    again.put(old);
  }
  EXPECT_EQ(refusal(dir_), "");
}

TEST_F(CheckpointTest, OldOnesGoOnlyWhenTheyAreOurs) {
  save(dir_, 1, {.run_id = "another"});
  fs::create_directories(dir_ + "/step_2.tmp-foreign");
  for (int64_t step = 2; step <= 9; ++step) save(dir_, step, {.keep_last = 2, .keep_every = 4});
  EXPECT_EQ(names_in(dir_), (std::vector<std::string>{"latest", "step_1", "step_2.tmp-foreign", "step_4",
                                                      "step_8", "step_9"}));
  // The run goes back to 4 (9 and 8 were damaged, say) and saves 5: later steps must not come back.
  save(dir_, 5, {.keep_last = 2, .keep_every = 4});
  EXPECT_EQ(names_in(dir_),
            (std::vector<std::string>{"latest", "step_1", "step_2.tmp-foreign", "step_4", "step_5"}));
  // A step that is there already is written beside, then the older generation goes.
  save(dir_, 5, {.keep_last = 2});
  EXPECT_EQ(names_in(dir_),
            (std::vector<std::string>{"latest", "step_1", "step_2.tmp-foreign", "step_4", "step_5-2"}));
  EXPECT_EQ(find_checkpoint(dir_), dir_ + "/step_5-2");
  expect_content(dir_ + "/step_5-2", 5);
}

TEST_F(CheckpointTest, DamagedNewestFallsBack) {
  save(dir_, 1);
  save(dir_, 2);
  fs::remove(dir_ + "/step_2/model-1.safetensors");
  EXPECT_EQ(find_checkpoint(dir_), dir_ + "/step_1");
  fs::resize_file(dir_ + "/step_1/MANIFEST.json", 100);
  const std::string why = refusal(dir_);
  EXPECT_NE(why.find("step_2: "), std::string::npos);
  EXPECT_NE(why.find("model-1.safetensors"), std::string::npos);
  EXPECT_NE(why.find("step_1: "), std::string::npos);
  EXPECT_NE(why.find("cut off"), std::string::npos);
}

TEST_F(CheckpointTest, ForeignShardsAreRefused) {
  save(dir_, 1);
  save(dir_, 2);
  const std::string old_shard = read_file(dir_ + "/step_1/model-0.safetensors");
  const std::string other_rank = read_file(dir_ + "/step_2/model-1.safetensors");
  const std::string shard = dir_ + "/step_2/model-0.safetensors";
  const std::string good = read_file(shard);
  fs::remove_all(dir_ + "/step_1");
  write_file(shard, old_shard);
  EXPECT_NE(refusal(dir_).find("shard of step 1, the manifest says 2"), std::string::npos) << refusal(dir_);
  write_file(shard, other_rank);
  EXPECT_NE(refusal(dir_).find("shard of rank 1, the manifest says 0"), std::string::npos) << refusal(dir_);
  write_file(shard, good);
  EXPECT_EQ(refusal(dir_), "");
  fs::rename(dir_ + "/step_2", dir_ + "/step_3");
  EXPECT_NE(refusal(dir_).find("the manifest is of step 2"), std::string::npos);
}

TEST_F(CheckpointTest, ManifestNamesStayInside) {
  Manifest manifest{make_info(1), {{{"a.safetensors", 0, {}}, 0}}};
  EXPECT_EQ(parse_manifest(manifest_text(manifest)).info.state, manifest.info.state);
  for (const std::string& name : {std::string("../x"), std::string("/etc/passwd"), std::string(".."),
                                  std::string(), std::string("a/b"), std::string("a\0b", 3)}) {
    manifest.files[0].record.name = name;
    EXPECT_THROW(parse_manifest(manifest_text(manifest)), Error) << name;
  }
  manifest.files[0].record = {"a", 5, {}};  // bytes without a checksum
  EXPECT_THROW(parse_manifest(manifest_text(manifest)), Error);
  manifest.files = {{{"a", 0, {}}, 0}, {{"a", 0, {}}, 1}};
  EXPECT_THROW(parse_manifest(manifest_text(manifest)), Error);
  for (const std::string& body : {std::string("{}"), std::string("[]"),
                                  std::string("{\"schema\":1,\"schema\":1}"), std::string(100000, '[')}) {
    const std::string text = fmt::format("{{\"xxh3_128\":\"{}\",\n\"manifest\":{}}}\n",
                                         xxh3_128_hex(body.data(), static_cast<int64_t>(body.size())), body);
    EXPECT_THROW(parse_manifest(text), Error) << body.substr(0, 20);
  }
}

// Every byte of the manifest and a sample of the shards: no flipped bit and no cut goes unseen.
TEST_F(CheckpointTest, EveryFlippedBitAndCutIsSeen) {
  save(dir_, 3);
  PhiloxSequence random(11, RandomStream::kTest, 3);
  int64_t tried = 0;
  for (const std::string& name : names_in(dir_ + "/step_3")) {
    const std::string path = dir_ + "/step_3/" + name;
    const std::string good = read_file(path);
    const bool every = name == kManifestName;
    for (size_t at = 0; at < good.size(); at += every ? 1 : 1 + random.below(25)) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << random.below(8)));
      write_file(path, bad);
      EXPECT_NE(refusal(dir_), "") << name << " byte " << at;
      ++tried;
    }
    for (size_t size = 0; size < good.size(); size += 1 + random.below(60)) {
      write_file(path, good.substr(0, size));
      EXPECT_NE(refusal(dir_), "") << name << " cut to " << size;
      ++tried;
    }
    write_file(path, good + "x");
    EXPECT_NE(refusal(dir_), "") << name << " longer";
    write_file(path, good);
  }
  EXPECT_EQ(refusal(dir_), "");
  EXPECT_GT(tried, 500);
}

// A child saves step 2 over step 1 and is killed after its n-th write, rename or fsync, for every n. The
// loader must find 1 or 2, whole, and the next save must work and leave nothing behind.
TEST_F(CheckpointTest, KilledAtEveryPointOldOrNew) {
  bool ended = false;
  int found_old = 0, found_new = 0;
  for (int n = 1; !ended; ++n) {
    ASSERT_LT(n, 200);
    fs::remove_all(dir_);
    const SaveOptions options{.ranks = 1, .keep_last = 1};
    save(dir_, 1, options);
    const pid_t child = ::fork();
    if (child == 0) {
      add_fault("crash_write@0:0:" + std::to_string(n));
      const AllGather alone = [](const std::string& mine) { return std::vector{mine}; };
      save_as(dir_, 2, 0, options, alone);
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ended = WIFEXITED(status);
    ASSERT_TRUE(ended || WTERMSIG(status) == SIGKILL);
    const std::optional<std::string> path = find_checkpoint(dir_);
    ASSERT_TRUE(path) << "killed after operation " << n;
    const int64_t step = Checkpoint(*path).info().step;
    expect_content(*path, step);
    (step == 1 ? found_old : found_new) += 1;
    EXPECT_TRUE(step == 2 || !ended);
    save(dir_, 3, options);
    EXPECT_EQ(names_in(dir_), (std::vector<std::string>{"latest", "step_3"}))
        << "killed after operation " << n;
  }
  EXPECT_GE(found_old, 6);
  EXPECT_GE(found_new, 5);
}

// In a child, so that the planned faults end with it: a failure on one rank reaches all, costs nothing, and
// the next save works.
void expect_fault_is_survived(const std::string& dir, const std::string& fault, const std::string& file,
                              const std::string& reason) {
  save(dir, 1);
  const pid_t child = ::fork();
  if (child == 0) {
    add_fault(fault);
    const std::vector<std::string> errors = save(dir, 2);
    bool good = errors[0] == errors[1] && errors[0].find(reason) != std::string::npos &&
                errors[0].find(file) != std::string::npos &&
                errors[0].find("bytes free") != std::string::npos;
    if (!good) fmt::print(stderr, "{}\n{}\n", errors[0], errors[1]);
    good = good && names_in(dir) == std::vector<std::string>{"latest", "step_1"} &&
           find_checkpoint(dir) == dir + "/step_1";
    good = good && save(dir, 2)[0].empty() && find_checkpoint(dir) == dir + "/step_2";
    ::_exit(good ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << fault;
  expect_content(dir + "/step_2", 2);
  fs::remove_all(dir);
}

TEST_F(CheckpointTest, StorageFaultsReachEveryRankAndCostNothing) {
  expect_fault_is_survived(dir_, "disk_full@0:1", "model-1.safetensors", "rank 1: ");
  expect_fault_is_survived(dir_, "disk_full@0:0", "model-0.safetensors", "No space left on device");
  expect_fault_is_survived(dir_, "eio@0:1", "model-1.safetensors", "Input/output error");
  expect_fault_is_survived(dir_, "fsync@0:0", "model-0.safetensors", "fsync failed");
}

TEST_F(CheckpointTest, UnwritableDirectoryReachesEveryRank) {
  fs::create_directories(dir_);
  write_file(dir_ + "/file", "x");
  for (const std::string& error : save(dir_ + "/file", 1))
    EXPECT_NE(error.find(dir_ + "/file"), std::string::npos) << error;
}

}  // namespace
}  // namespace contender
