// What evaluation makes of k scored completions of one problem.
#pragma once

#include <cstdint>
#include <vector>

#include "grpo/sample.h"

namespace contender {

// Chance that at least one of k completions is right, unbiased from n of which c are right, 1 <= k <= n: 1 -
// C(n - c, k) / C(n, k) (Chen et al., "Evaluating large language models trained on code", arXiv 2107.03374).
double pass_at_k(int64_t n, int64_t c, int64_t k);

// Is the most frequent answer right? Completions without an answer have no vote; ties go to the answer given
// first.
bool majority_right(const std::vector<Sample>& samples);

}  // namespace contender
