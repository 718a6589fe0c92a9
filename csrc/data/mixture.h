// Several prompt files in one order of training, each with its share.
//
// The order is made of blocks of block() positions. In every block file f stands at exactly shares()[f]
// positions, shuffled; and what it gives there, one prompt after the other, is its own shuffled epochs:
// within an epoch of its own each of its prompts comes once. So a file with half the weight of another and
// the same number of prompts is seen half as often, and both are seen evenly. The prompt of a position is
// computed, not remembered: resuming is remembering the position.
#pragma once

#include <cstdint>
#include <vector>

namespace contender {

class Mixture {
 public:
  // Prompts and weight (> 0) of each file. Shares are exact where the weights are multiples of a thousandth
  // or less of their sum (1 : 2 is blocks of 3), else rounded to a thousandth. Error(kConfig) for a weight
  // below a thousandth of the sum.
  Mixture(std::vector<int64_t> sizes, const std::vector<double>& weights);

  int64_t block() const { return block_; }
  const std::vector<int64_t>& shares() const { return shares_; }

  // Place, in the files one behind the other, of the prompt at a position >= 0 of training.
  int64_t index_at(uint64_t seed, int64_t position) const;

 private:
  std::vector<int64_t> sizes_, shares_;
  int64_t block_ = 0;
};

// An order of all prompts of all files, so that each file has its part in the beginning too: the prompt at
// (k + 1/2) / size of a file stands before those at larger fractions of theirs.
std::vector<int64_t> interleaved(const std::vector<int64_t>& sizes);

}  // namespace contender
