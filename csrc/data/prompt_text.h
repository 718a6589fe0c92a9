// The text of a prompt file, plain or compressed by zstd: read once from end to end, then anywhere.
//
// Compressed files are told by their first bytes, not by their name. Almost all of them are one frame, which
// can only be read from its beginning: so the one pass cuts their text into blocks of 64 KiB, compresses
// each for itself, and keeps the blocks in a temporary file without a name (in TMPDIR, about as large as the
// given file). In memory are the window of the given file (128 MiB at most, what `zstd` decompresses without
// being asked for more), and 8 bytes per block.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace contender {

class PromptText {
 public:
  virtual ~PromptText() = default;
  // The one pass: appends the next piece, at most 64 KiB. False at the end.
  virtual bool append_next(std::string* buffer) = 0;
  // `bytes` of the text from `offset` on, both behind the pass; fewer where the file has become shorter
  // since.
  virtual std::string read(int64_t offset, int64_t bytes) const = 0;
};

// Throws Error(kConfig), naming the file, for what is no regular file, cannot be read, is damaged or cut off,
// needs a larger window, or expands to more than 1,000 times its size; Error(kStorage) when the temporary
// file cannot be written. So do the functions of what it returns.
std::unique_ptr<PromptText> open_prompt_text(const std::string& path);

}  // namespace contender
