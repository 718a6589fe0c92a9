// Sharded checkpoints that are whole or not there, and that any layout can read.
//
// Save: every rank writes its shards into <dir>/step_<N>.tmp-<id>/ and syncs them; the ranks tell each other
// sizes and checksums; rank 0 writes MANIFEST.json, syncs, renames the directory to step_<N>, syncs <dir>,
// and replaces <dir>/latest (the name of the directory, for people and scripts). A kill at any moment leaves
// the old checkpoints and perhaps a directory that no loader looks at. A step that is already there (it was
// damaged, or the run went back) is written beside it as step_<N>-2, -3, ...
//
// A tensor is stored as rectangles: each shard knows the global shape and its place, so a loader on any
// layout asks for the region it needs. All ranks see the same file system.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "checkpoint/manifest.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/storage.h"

namespace contender {

// A rectangle of a named tensor. A whole tensor (the rectangle is the global shape) is stored under its own
// name, with shape [cols] when it has one row, as Hugging Face stores norms and biases; a part under
// "name[r0:r1,c0:c1]".
struct ShardTensor {
  std::string name;  // of the whole tensor
  DType dtype = DType::kF32;
  int64_t rows = 0, cols = 0;  // of the rectangle
  int64_t global_rows = 0, global_cols = 0;
  int64_t row_begin = 0, col_begin = 0;
  // Asked when its turn comes; may be collective if all ranks add in the same order.
  SafetensorsWriter::Source data;
};

// Elements [begin, end) of a row-major matrix as at most three rectangles, in order: how a flat optimizer
// shard becomes regions of its parameter. `flat` is where the rectangle's first element lies, counted from
// begin.
struct FlatRegion {
  int64_t row_begin, rows, col_begin, cols, flat;
};
std::vector<FlatRegion> flat_regions(int64_t matrix_cols, int64_t begin, int64_t end);

// What every rank said, in rank order; every rank calls it the same number of times (mpi/group.h:
// Group::all_gather_bytes).
using AllGather = std::function<std::vector<std::string>(const std::string&)>;

// One save. Constructor and commit are collective; add_file is local. A failure on one rank (disk full, EIO,
// fsync) is kept until commit, which throws the same Error(kStorage), naming rank, path and bytes, on every
// rank; the temporary directory is gone then and older checkpoints are untouched. (Only when `latest` alone
// could not be replaced has the new checkpoint its final name.)
class CheckpointWriter {
 public:
  CheckpointWriter(std::string dir, CheckpointInfo info, int rank, AllGather all_gather);
  // `file` ("model-00002.safetensors") is unique among all ranks. Writes and syncs at once.
  void add_file(const std::string& file, const std::vector<ShardTensor>& tensors);
  // Then keeps, among the checkpoints of this run id, the newest keep_last (at least this one) and every step
  // that keep_every divides (0: none), and removes the others and those of later steps, from which the run
  // went back. Other runs' are never touched. Returns the path of the checkpoint.
  std::string commit(int64_t keep_last, int64_t keep_every);

 private:
  void write_manifest_and_publish();
  [[noreturn]] void give_up(const std::string& errors);
  std::string latest_tmp_path() const { return tmp_path_ + ".latest"; }

  std::string dir_;
  CheckpointInfo info_;
  AllGather all_gather_;
  Storage storage_;
  std::string tmp_path_;
  std::string path_;
  RankOutcome mine_;
  std::vector<ShardFile> files_;  // of all ranks, known in commit
};

// A checkpoint opened for reading. Checks manifest, headers and the run, step and rank inside each shard;
// find_checkpoint checks every byte.
class Checkpoint {
 public:
  // Throws Error(kNoCheckpoint) saying what is wrong.
  explicit Checkpoint(const std::string& path);

  const std::string& path() const { return path_; }
  const CheckpointInfo& info() const { return manifest_.info; }
  const Manifest& manifest() const { return manifest_; }
  bool has(const std::string& name) const { return tensors_.contains(name); }
  std::vector<std::string> names() const;
  struct Shape {
    int64_t rows, cols;
  };
  Shape shape(const std::string& name) const;
  // Rows x columns of the whole tensor, put together from the shards, as FP32 with row stride `ld`.
  // Error(kNoCheckpoint) naming the tensor when it is missing, when the shards leave a hole or when they
  // overlap; Error(kLayout) when the region is not within the tensor.
  void read_region(const std::string& name, int64_t row_begin, int64_t rows, int64_t col_begin, int64_t cols,
                   float* dst, int64_t ld) const;
  // A U8 tensor that one rank stored whole: opaque state.
  std::string read_bytes(const std::string& name) const;

 private:
  struct Piece {
    const SafetensorsFile* file;
    std::string stored_name;
    int64_t row_begin, rows, col_begin, cols;
  };
  struct Whole {
    int64_t rows = 0, cols = 0;
    std::vector<Piece> pieces;
  };
  void add_shard(const SafetensorsFile& file, const ShardFile& shard);
  const Whole& find(const std::string& name) const;

  std::string path_;
  Manifest manifest_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, Whole> tensors_;
};

// The newest checkpoint in <dir> of which every byte verifies; older ones with a warning that says why the
// newer was refused. Empty when there is none; Error(kNoCheckpoint) listing every reason when there are some
// and none is usable. On one rank: the others take its answer.
std::optional<std::string> find_checkpoint(const std::string& dir);

// The newest manifest in <dir> that verifies, and the directory it lies in; the shards are not looked at. Any
// process may ask.
struct FoundManifest {
  std::string path;
  Manifest manifest;
};
std::optional<FoundManifest> newest_manifest(const std::string& dir);

}  // namespace contender
