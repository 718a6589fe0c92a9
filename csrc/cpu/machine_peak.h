// What one core of this machine can do, measured: the denominators of "% of peak" in the log and in the
// benches.
#pragma once

namespace contender::cpu {

// Fused multiply-adds on FP32 vectors held in registers, two flops each: the most a matrix product can reach.
// GFLOP/s, about 50 ms.
double measured_matrix_gflops();

// Copying memory far larger than the caches, bytes read plus bytes written. GB/s, about 100 ms and 128 MiB
// for that time.
double measured_copy_gbps();

}  // namespace contender::cpu
