#include "ops/optimizer.h"

namespace contender {

void check_adamw_copies(const AdamwArgs& args) {
  const WeightCopies& c = args.copies;
  CHECK(args.n == c.num_groups * c.n * c.k, "a shard of {}, copies of {} groups of {} x {}", args.n,
        c.num_groups, c.n, c.k);
  check_quantize_weight({.x = f32_tensor(args.master, c.num_groups * c.n, c.k),
                         .num_groups = c.num_groups,
                         .q = c.q,
                         .transposed = c.transposed});
}

// Master weight and both moments are read and written, the gradient is read; copies are written.
Cost adamw_cost(int64_t n, DType moment_dtype, const WeightCopies& copies, const WeightFormat& format) {
  const double count = static_cast<double>(n);
  Cost cost = {.flops = 17 * count,
               .bytes = count * (3 * 4 + 4 * static_cast<double>(dtype_size(moment_dtype)))};
  const int64_t groups = copies.num_groups;
  int64_t bytes = 0;
  if (copies.forward) bytes += groups * packed_forward_bytes(copies.n, copies.k, format);
  if (copies.backward) bytes += groups * packed_backward_bytes(copies.n, copies.k, format);
  for (const QTensor& q : {copies.q, copies.transposed})
    if (q.data) bytes += q.data.numel() + 4 * q.scale.numel();
  cost.bytes += static_cast<double>(bytes);
  if (copies.q.data || copies.transposed.data) cost.flops += 2 * count;
  return cost;
}

}  // namespace contender
