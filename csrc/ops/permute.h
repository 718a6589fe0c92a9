// Moving rows: gather, scatter, and the weighted sum of a token's expert outputs. All deterministic.
#pragma once

#include "ops/exec.h"

namespace contender {

// y[i] = x[index[i]]; index -1 writes zeros. Without an index: a copy, y[i] = x[i], which may change the
// dtype (F32 and BF16, round to nearest even).
struct GatherRowsArgs {
  Tensor x;
  const int32_t* index = nullptr;  // [y.rows]
  Tensor y;
};
// y[index[i]] = x[i]; index -1 skips. Indices are distinct; other rows of y are untouched.
struct ScatterRowsArgs {
  Tensor x;
  const int32_t* index = nullptr;  // [x.rows]
  Tensor y;
};
// y[t] = sum_j weight[t, j] * x[pos[t, j]], j ascending, from 0 (or from y when accumulate), one fma each.
struct CombineArgs {
  Tensor x;       // [R, H]
  Tensor pos;     // [T, k] I32 rows of x
  Tensor weight;  // [T, k], or empty: 1
  Tensor y;       // [T, H]
  bool accumulate = false;
};
// dx[pos[t, j]] = weight[t, j] * dy[t];  dweight[t, j] = dy[t] . x[pos[t, j]]
struct CombineBwdArgs {
  Tensor dy;           // [T, H]
  Tensor x;            // [R, H]
  Tensor pos, weight;  // [T, k]
  Tensor dx;           // [R, H] rows named by pos overwritten
  Tensor dweight;      // [T, k] overwritten
};
// Columns of heads from one layout to another: y_h = x_h, `width` columns each; other columns are untouched.
struct CopyHeadsArgs {
  Tensor x;  // [M, ...]
  Heads x_heads;
  Tensor y;  // [M, ...]
  Heads y_heads;
  int64_t width = 0;
};
// y = a + b elementwise (y may be a or b).
struct AddArgs {
  Tensor a, b, y;
};
// dbias[n] = sum over rows of dy[r, n], canonical order by segments (group 0), overwritten.
struct ColumnSumArgs {
  Tensor dy;   // [M, N]
  Tensor sum;  // [1, N]
  RowSegments segments;
};
// Rows and heads of x and y fit each other; exit 1 with the numbers otherwise.
void check_copy_heads(const CopyHeadsArgs& args);
// Each element is read or written `passes` times.
Cost rows_cost(int64_t rows, int64_t cols, double passes, DType activation = DType::kF32);
int64_t column_sum_workspace_bytes(int64_t n, int32_t num_leaves);

}  // namespace contender
