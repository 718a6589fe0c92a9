#include <algorithm>
#include <exception>
#include <filesystem>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/directory.h"

namespace contender {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxManifestBytes = int64_t{1} << 30;

// What an action failed with, empty when it did not. For moments when the other ranks wait to hear of it.
template <class Action>
std::string error_of(const Action& action) {
  try {
    action();
    return "";
  } catch (const std::exception& e) {
    return e.what();
  }
}

void remove_tree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) log_warn("{}: cannot remove: {}", path, error.message());
}

bool is_whole(const ShardTensor& t) { return t.rows == t.global_rows && t.cols == t.global_cols; }

std::string stored_name(const ShardTensor& t) {
  if (is_whole(t)) return t.name;
  return fmt::format("{}[{}:{},{}:{}]", t.name, t.row_begin, t.row_begin + t.rows, t.col_begin,
                     t.col_begin + t.cols);
}

// Run of the checkpoint in `path`, empty when its manifest cannot be read: then it is nobody's to delete.
std::string run_id_of(const std::string& path) {
  try {
    return parse_manifest(read_small_file(path + "/" + kManifestName, kMaxManifestBytes)).info.run_id;
  } catch (const Error&) {
    return "";
  }
}

// Renamed first, so that a kill in the middle leaves no half checkpoint under a name that loaders look at.
void remove_checkpoint(Storage& storage, const std::string& dir, const std::string& name,
                       const std::string& run_id) {
  const std::string doomed = dir + "/" + temporary_name(name, run_id);
  const std::string error = error_of([&] { storage.rename(dir + "/" + name, doomed); });
  if (!error.empty()) {
    log_warn("old checkpoint stays: {}", error);
    return;
  }
  remove_tree(doomed);
}

void remove_old_checkpoints(Storage& storage, const std::string& dir, const CheckpointInfo& written,
                            int64_t keep_last, int64_t keep_every) {
  std::set<int64_t> kept_steps;
  for (const CheckpointDir& d : list_checkpoint_dirs(dir)) {
    if (run_id_of(dir + "/" + d.name) != written.run_id) continue;
    // The run went back to before this step, because it was damaged or was not wanted: it must not come back
    // at the next start.
    const bool abandoned = d.step > written.step;
    const bool recent = static_cast<int64_t>(kept_steps.size()) < std::max<int64_t>(1, keep_last);
    const bool milestone = keep_every > 0 && d.step % keep_every == 0;
    if (!abandoned && !kept_steps.contains(d.step) && (recent || milestone)) {
      kept_steps.insert(d.step);
    } else {
      remove_checkpoint(storage, dir, d.name, written.run_id);
    }
  }
}

}  // namespace

std::vector<FlatRegion> flat_regions(int64_t matrix_cols, int64_t begin, int64_t end) {
  CHECK(0 <= begin && begin <= end && matrix_cols > 0, "[{}, {}) of rows of {}", begin, end, matrix_cols);
  std::vector<FlatRegion> regions;
  int64_t at = begin;
  const auto take = [&](int64_t rows, int64_t cols) {
    if (rows * cols > 0) regions.push_back({at / matrix_cols, rows, at % matrix_cols, cols, at - begin});
    at += rows * cols;
  };
  if (at % matrix_cols != 0) take(1, std::min(end - at, matrix_cols - at % matrix_cols));
  take((end - at) / matrix_cols, matrix_cols);
  take(1, end - at);
  return regions;
}

CheckpointWriter::CheckpointWriter(std::string dir, CheckpointInfo info, int rank, AllGather all_gather)
    : dir_(std::move(dir)), info_(std::move(info)), all_gather_(std::move(all_gather)), storage_(rank) {
  std::string name;
  std::string error;
  if (rank == 0) {
    error = error_of([&] {
      storage_.make_dir(dir_);
      for (const std::string& leftover : list_leftovers(dir_, info_.run_id))
        remove_tree(dir_ + "/" + leftover);
      name = temporary_name(fmt::format("step_{}", info_.step), info_.run_id);
      storage_.make_dir(dir_ + "/" + name);
    });
  }
  // Rank 0's answer: "+name" or "-reason".
  const std::string answer = all_gather_(error.empty() ? "+" + name : "-" + error).at(0);
  if (answer[0] == '-')
    fail(ExitCode::kStorage, "checkpoint of step {}: rank 0: {}", info_.step, answer.substr(1));
  tmp_path_ = dir_ + "/" + answer.substr(1);
}

void CheckpointWriter::add_file(const std::string& file, const std::vector<ShardTensor>& tensors) {
  CHECK(!file.empty() && file[0] != '.' && file.find('/') == std::string::npos, "file {}", file);
  SafetensorsWriter writer;
  writer.set_metadata("format", "pt");
  writer.set_metadata("run_id", info_.run_id);
  writer.set_metadata("step", std::to_string(info_.step));
  writer.set_metadata("rank", std::to_string(storage_.rank()));
  for (const ShardTensor& t : tensors) {
    CHECK(t.rows >= 0 && t.cols >= 0 && t.row_begin >= 0 && t.col_begin >= 0 &&
              t.row_begin + t.rows <= t.global_rows && t.col_begin + t.cols <= t.global_cols,
          "{}: {} x {} at ({}, {}) of {} x {}", t.name, t.rows, t.cols, t.row_begin, t.col_begin,
          t.global_rows, t.global_cols);
    const std::string stored = stored_name(t);
    if (!is_whole(t)) {
      writer.set_metadata("place:" + stored, fmt::format("{} {} {} {} {}", t.global_rows, t.global_cols,
                                                         t.row_begin, t.col_begin, t.name));
    }
    const std::vector<int64_t> shape =
        is_whole(t) && t.rows == 1 ? std::vector{t.cols} : std::vector{t.rows, t.cols};
    writer.add(stored, t.dtype, shape, t.data);
  }
  try {
    mine_.files.push_back({writer.write(storage_, tmp_path_ + "/" + file), storage_.rank()});
  } catch (const Error& e) {
    // A lost peer and the like end the job; a full disk only this save. Every source has been asked, see
    // SafetensorsWriter::write.
    if (e.code() != ExitCode::kStorage) throw;
    if (mine_.error.empty()) mine_.error = e.what();
  }
}

std::string CheckpointWriter::commit(int64_t keep_last, int64_t keep_every) {
  const std::vector<std::string> outcomes = all_gather_(outcome_text(mine_));
  std::string errors;
  for (size_t r = 0; r < outcomes.size(); ++r) {
    const RankOutcome outcome = parse_outcome(outcomes[r]);
    if (!outcome.error.empty())
      errors += fmt::format("{}rank {}: {}", errors.empty() ? "" : "; ", r, outcome.error);
    files_.insert(files_.end(), outcome.files.begin(), outcome.files.end());
  }
  if (!errors.empty()) give_up(errors);
  std::string error;
  if (storage_.rank() == 0) error = error_of([&] { write_manifest_and_publish(); });
  // "+path" or "-reason", from rank 0.
  const std::string answer = all_gather_(error.empty() ? "+" + path_ : "-" + error).at(0);
  if (answer[0] == '-') give_up("rank 0: " + answer.substr(1));
  path_ = answer.substr(1);
  if (storage_.rank() == 0) remove_old_checkpoints(storage_, dir_, info_, keep_last, keep_every);
  return path_;
}

void CheckpointWriter::give_up(const std::string& errors) {
  if (storage_.rank() == 0) {
    remove_tree(tmp_path_);
    remove_tree(latest_tmp_path());
  }
  fail(ExitCode::kStorage, "checkpoint of step {}: {}", info_.step, errors);
}

void CheckpointWriter::write_manifest_and_publish() {
  const std::string text = manifest_text({info_, files_});
  parse_manifest(text);  // two ranks with one file name, or a name no loader would take
  storage_.write_file(tmp_path_ + "/" + kManifestName, text);
  storage_.sync_dir(tmp_path_);
  const std::string name = free_checkpoint_name(dir_, info_.step);
  storage_.rename(tmp_path_, dir_ + "/" + name);
  path_ = dir_ + "/" + name;
  storage_.sync_dir(dir_);
  // The checkpoint exists from here on; `latest` only follows.
  storage_.write_file(latest_tmp_path(), name + "\n");
  storage_.rename(latest_tmp_path(), dir_ + "/latest");
  storage_.sync_dir(dir_);
}

}  // namespace contender
