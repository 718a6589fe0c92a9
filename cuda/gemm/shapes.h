// The products of real models, and small ragged ones: what tests and benches of cuda/gemm share.
#pragma once

#include <cstdint>

namespace contender::cuda {

// y [M, n] = x [M, k] w [n, k]^T; groups > 1: experts of one rank, M rows dealt out to them.
struct GemmShape {
  const char* name;
  int64_t n, k;
  int64_t groups = 1;
};

inline constexpr GemmShape kModelShapes[] = {
    // DeepSeek-V3: hidden 7168, 128 heads, q_lora 1536, kv_lora 512 + 64 rope, experts of 2048, dense FFN
    // 18432.
    {"v3.q_a_kv_a", 2112, 7168},
    {"v3.q_b", 24576, 1536},
    {"v3.kv_b", 32768, 512},
    {"v3.o", 7168, 16384},
    {"v3.ffn_up", 36864, 7168},
    {"v3.ffn_down", 7168, 18432},
    {"v3.shared_up", 4096, 7168},
    {"v3.shared_down", 7168, 2048},
    {"v3.router", 256, 7168},
    {"v3.head", 129280, 7168},
    {"v3.experts_up", 4096, 7168, 32},
    {"v3.experts_down", 7168, 2048, 32},
    // DeepSeek-V2-Lite: hidden 2048, 16 heads, kv_lora 512 + 64, experts of 1408, dense FFN 10944.
    {"v2lite.q", 3072, 2048},
    {"v2lite.kv_a", 576, 2048},
    {"v2lite.kv_b", 4096, 512},
    {"v2lite.o", 2048, 2048},
    {"v2lite.ffn_up", 21888, 2048},
    {"v2lite.ffn_down", 2048, 10944},
    {"v2lite.experts_up", 2816, 2048, 64},
    {"v2lite.experts_down", 2048, 1408, 64},
    {"v2lite.head", 102400, 2048},
    // Qwen2.5-7B: hidden 3584, 28 query and 4 KV heads of 128, FFN 18944.
    {"qwen7b.qkv", 4608, 3584},
    {"qwen7b.o", 3584, 3584},
    {"qwen7b.ffn_up", 37888, 3584},
    {"qwen7b.ffn_down", 3584, 18944},
    {"qwen7b.head", 152064, 3584},
    // What kernel_bars compares with cuBLAS at M = 8192.
    {"square.8192", 8192, 8192},
};
inline constexpr int64_t kModelRows[] = {1, 16, 64, 128, 512, 4096, 16384};

// Small ones for the simulator: every tail of a tile, of a stage and of a step, one unit and several.
struct RaggedShape {
  int64_t m, n, k;
  int slices;
};
inline constexpr RaggedShape kRaggedShapes[] = {
    {1, 8, 8, 1},     {17, 72, 24, 1},      {64, 64, 64, 1},   {129, 264, 72, 1}, {5, 136, 328, 1},
    {33, 40, 160, 2}, {70, 136, 4 * 72, 4}, {300, 24, 416, 4}, {19, 68, 40, 1},   {70, 43, 64, 2},
};

}  // namespace contender::cuda
