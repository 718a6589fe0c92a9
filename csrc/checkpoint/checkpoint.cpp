#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/directory.h"

namespace contender {
namespace {

constexpr int64_t kMaxManifestBytes = int64_t{1} << 30;
constexpr std::string_view kPlacePrefix = "place:";

struct Rect {
  int64_t row_begin, row_end, col_begin, col_end;
  bool empty() const { return row_begin >= row_end || col_begin >= col_end; }
  int64_t area() const { return empty() ? 0 : (row_end - row_begin) * (col_end - col_begin); }
};

Rect intersection(const Rect& a, const Rect& b) {
  return {std::max(a.row_begin, b.row_begin), std::min(a.row_end, b.row_end),
          std::max(a.col_begin, b.col_begin), std::min(a.col_end, b.col_end)};
}

// a without b, as up to four rectangles.
void subtract(const Rect& a, const Rect& b, std::vector<Rect>& out) {
  const Rect i = intersection(a, b);
  if (i.empty()) {
    out.push_back(a);
    return;
  }
  const Rect rest[] = {{a.row_begin, i.row_begin, a.col_begin, a.col_end},
                       {i.row_end, a.row_end, a.col_begin, a.col_end},
                       {i.row_begin, i.row_end, a.col_begin, i.col_begin},
                       {i.row_begin, i.row_end, i.col_end, a.col_end}};
  for (const Rect& r : rest) {
    if (!r.empty()) out.push_back(r);
  }
}

struct Place {
  int64_t global_rows, global_cols, row_begin, col_begin;
  std::string name;
};

// "global_rows global_cols row_begin col_begin name", as the writer puts it.
Place parse_place(const SafetensorsFile& file, const std::string& stored, const TensorInfo& info) {
  const auto at = file.metadata().find(std::string(kPlacePrefix) + stored);
  if (at == file.metadata().end()) return {info.rows(), info.cols(), 0, 0, stored};
  Place place{};
  const char* from = at->second.data();
  const char* end = from + at->second.size();
  bool good = true;
  for (int64_t* number : {&place.global_rows, &place.global_cols, &place.row_begin, &place.col_begin}) {
    const auto [next, error] = std::from_chars(from, end, *number);
    good = good && error == std::errc() && *number >= 0 && next != end && *next == ' ';
    if (!good) break;
    from = next + 1;
  }
  int64_t numel = 0;
  good = good && from != end && !__builtin_mul_overflow(place.global_rows, place.global_cols, &numel) &&
         place.row_begin <= place.global_rows - info.rows() &&
         place.col_begin <= place.global_cols - info.cols();
  if (!good)
    fail(ExitCode::kNoCheckpoint, "{}: the place of \"{}\" makes no sense: {}", file.path(), stored,
         at->second);
  place.name.assign(from, end);
  return place;
}

void check_stamp(const SafetensorsFile& file, const std::string& key, const std::string& expected) {
  const auto at = file.metadata().find(key);
  const std::string found = at == file.metadata().end() ? "none" : at->second;
  if (found != expected)
    fail(ExitCode::kNoCheckpoint, "{}: shard of {} {}, the manifest says {}", file.path(), key, found,
         expected);
}

}  // namespace

Checkpoint::Checkpoint(const std::string& path) : path_(path) {
  try {
    manifest_ = parse_manifest(read_small_file(path + "/" + kManifestName, kMaxManifestBytes));
    files_.reserve(manifest_.files.size());  // pieces point into it
    for (const ShardFile& shard : manifest_.files) {
      files_.emplace_back(path + "/" + shard.record.name);
      add_shard(files_.back(), shard);
    }
  } catch (const Error& e) {
    fail(ExitCode::kNoCheckpoint, "{}: {}", path, e.what());
  }
}

void Checkpoint::add_shard(const SafetensorsFile& file, const ShardFile& shard) {
  check_stamp(file, "run_id", manifest_.info.run_id);
  check_stamp(file, "step", std::to_string(manifest_.info.step));
  check_stamp(file, "rank", std::to_string(shard.rank));
  for (const auto& [stored, info] : file.tensors()) {
    const Place place = parse_place(file, stored, info);
    Whole& whole = tensors_[place.name];
    if (whole.pieces.empty()) {
      whole.rows = place.global_rows;
      whole.cols = place.global_cols;
    } else if (whole.rows != place.global_rows || whole.cols != place.global_cols) {
      fail(ExitCode::kNoCheckpoint, "{}: \"{}\" is part of {} x {}, another shard says {} x {}", file.path(),
           stored, place.global_rows, place.global_cols, whole.rows, whole.cols);
    }
    whole.pieces.push_back({&file, stored, place.row_begin, info.rows(), place.col_begin, info.cols()});
  }
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> out;
  for (const auto& [name, whole] : tensors_) out.push_back(name);
  return out;
}

const Checkpoint::Whole& Checkpoint::find(const std::string& name) const {
  const auto at = tensors_.find(name);
  if (at == tensors_.end()) fail(ExitCode::kNoCheckpoint, "{}: no tensor \"{}\"", path_, name);
  return at->second;
}

Checkpoint::Shape Checkpoint::shape(const std::string& name) const {
  const Whole& whole = find(name);
  return {whole.rows, whole.cols};
}

void Checkpoint::read_region(const std::string& name, int64_t row_begin, int64_t rows, int64_t col_begin,
                             int64_t cols, float* dst, int64_t ld) const {
  const Whole& whole = find(name);
  if (row_begin < 0 || rows < 0 || row_begin > whole.rows - rows || col_begin < 0 || cols < 0 ||
      col_begin > whole.cols - cols)
    fail(ExitCode::kLayout, "{}: \"{}\" is {} x {}; rows {} to {}, columns {} to {} were asked for", path_,
         name, whole.rows, whole.cols, row_begin, row_begin + rows, col_begin, col_begin + cols);
  const Rect wanted{row_begin, row_begin + rows, col_begin, col_begin + cols};
  std::vector<Rect> missing;
  if (!wanted.empty()) missing.push_back(wanted);
  int64_t copied = 0;
  for (const Piece& p : whole.pieces) {
    const Rect hit =
        intersection(wanted, {p.row_begin, p.row_begin + p.rows, p.col_begin, p.col_begin + p.cols});
    if (hit.empty()) continue;
    p.file->read(p.stored_name, hit.row_begin - p.row_begin, hit.row_end - hit.row_begin,
                 hit.col_begin - p.col_begin, hit.col_end - hit.col_begin,
                 dst + (hit.row_begin - row_begin) * ld + hit.col_begin - col_begin, ld);
    copied += hit.area();
    std::vector<Rect> rest;
    for (const Rect& m : missing) subtract(m, hit, rest);
    missing = std::move(rest);
  }
  if (!missing.empty())
    fail(ExitCode::kNoCheckpoint, "{}: no shard has rows {} to {}, columns {} to {} of \"{}\"", path_,
         missing[0].row_begin, missing[0].row_end, missing[0].col_begin, missing[0].col_end, name);
  if (copied != wanted.area())
    fail(ExitCode::kNoCheckpoint, "{}: two shards hold the same part of \"{}\"", path_, name);
}

std::string Checkpoint::read_bytes(const std::string& name) const {
  const Whole& whole = find(name);
  const Piece& p = whole.pieces[0];
  const TensorInfo& info = p.file->info(p.stored_name);
  if (whole.pieces.size() != 1 || p.rows != whole.rows || p.cols != whole.cols || info.dtype != DType::kU8)
    fail(ExitCode::kNoCheckpoint, "{}: \"{}\" is not bytes stored whole", path_, name);
  return {reinterpret_cast<const char*>(p.file->data(info)), static_cast<size_t>(info.end - info.begin)};
}

std::optional<FoundManifest> newest_manifest(const std::string& dir) {
  for (const CheckpointDir& candidate : list_checkpoint_dirs(dir)) {
    const std::string path = dir + "/" + candidate.name;
    try {
      return FoundManifest{path,
                           parse_manifest(read_small_file(path + "/" + kManifestName, kMaxManifestBytes))};
    } catch (const Error&) {  // an older one, then
    }
  }
  return std::nullopt;
}

std::optional<std::string> find_checkpoint(const std::string& dir) {
  std::string refusals;
  for (const CheckpointDir& candidate : list_checkpoint_dirs(dir)) {
    const std::string path = dir + "/" + candidate.name;
    std::string problem;
    try {
      const Checkpoint checkpoint(path);
      if (checkpoint.info().step != candidate.step)
        problem = fmt::format("{}: the manifest is of step {}", path, checkpoint.info().step);
      for (const ShardFile& shard : checkpoint.manifest().files) {
        if (problem.empty()) problem = file_problem(path + "/" + shard.record.name, shard.record);
      }
    } catch (const Error& e) {
      problem = e.what();
    }
    if (problem.empty()) {
      if (!refusals.empty()) log_warn("CHECKPOINT REFUSED, going back to {}:{}", path, refusals);
      return path;
    }
    refusals += fmt::format("\n  {}: {}", candidate.name, problem);
  }
  if (refusals.empty()) return std::nullopt;
  fail(ExitCode::kNoCheckpoint, "{}: no usable checkpoint:{}", dir, refusals);
}

}  // namespace contender
