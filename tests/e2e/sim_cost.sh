#!/usr/bin/env bash
# Kernels against cost(). The memory-bound ones: the bytes that the simulator counts are within 5% of the operands', no sector is
# asked for twice, shared memory has no bank conflicts. Products, weight gradients, the head: within 3% of what their tiles ask for, or
# the reason stands here. Each operator runs once, alone, on a small shape of bench/cuda. The simulator has no caches: what a GPU would
# find there counts here.
set -euo pipefail
build=$(dirname "$CONTENDER")
if [ ! -x "$build/cuda_bench" ]; then
  echo "sim_cost: skipped, no CUDA toolkit"
  exit 0
fi
status=0
tried=0

# run ROW [KERNEL]: sets counts = cost, bytes moved, sectors, bytes asked for, shared wavefronts, their minimum; of the kernels
# whose name contains KERNEL, where the row prepares with others.
run() {
  local json=$WORK/${1//\//_}.json out
  out=$(PTXSIM_LIBDIR=$build/ptxsim tools/sim --profile="$json" "$build/cuda_bench" --once="$1" 2>"$WORK/err") ||
    { cat "$WORK/err"; echo "sim_cost: $1 does not run"; exit 1; }
  counts=($(awk -v cost="${out##* }" -v kernel="${2:-}" '
    function number(key) { return match($0, "\"" key "\": [0-9]+") ? substr($0, RSTART + length(key) + 4, RLENGTH - length(key) - 4) : 0 }
    /^ \{"name": "contender::cuda::/ && index($0, kernel) {
      bytes += number("global_read_bytes") + number("global_written_bytes")
      sectors += number("sectors"); asked += number("requested_bytes")
      waves += number("shared_wavefronts"); ideal += number("shared_ideal_wavefronts")
    }
    END { printf "%d %d %d %d %d %d", cost, bytes, sectors, asked, waves, ideal }' "$json"))
}
# judge ROW BYTES% [CONFLICTS%]: what `counts` holds
judge() {
  tried=$((tried + 1))
  awk -v row="$1" -v limit="$2" -v cost="${counts[0]}" -v bytes="${counts[1]}" -v sectors="${counts[2]}" \
    -v asked="${counts[3]}" -v waves="${counts[4]}" -v ideal="${counts[5]}" -v most="${3:-1}" 'BEGIN {
      if (cost > 0) over = 100 * (bytes / cost - 1)
      if (asked > 0) twice = 100 * (sectors * 32 / asked - 1)
      if (ideal > 0) conflicts = 100 * (waves / ideal - 1)
      printf "%-20s cost %9d  moved %9d %+6.1f%%  sectors %+6.1f%%  bank conflicts %.1f%%\n", row, cost, bytes, over, twice, conflicts
      exit !(bytes > 0 && cost > 0 && over >= -5 && over <= limit && twice <= (limit > 5 ? limit : 5) && conflicts <= most)
    }' || { echo "sim_cost: $1 moves more than $2% over its cost, or asks twice, or has bank conflicts"; status=1; }
}
row() { # ROW [KERNEL]
  run "$@"
  judge "$1" 5
}
# What the rows of the second shape add to those of the first: without what every block reads once.
growth() { # ROW SHAPE SHAPE KERNEL BYTES%
  local small i
  run "$1/$2" "$4"
  small=("${counts[@]}")
  run "$1/$3" "$4"
  for i in 0 1 2 3 4 5; do counts[i]=$((counts[i] - small[i])); done
  judge "$1" "$5"
}

for r in embedding embedding_bwd pack_weight token_loss_grpo adamw_f32 adamw_bf16 adamw_pack adamw_fp8 square_sum gather_rows scatter_rows combine \
  combine_bwd add cast copy_heads rope_mla rope_mla_key rope_gqa swiglu swiglu_bwd swiglu_quantize quantize_1x128 \
  quantize_128x1 quantize_128x128 quantize_weight dequantize; do
  row $r
done
row router_bwd router_bwd
for r in rms_norm rms_norm_residual rms_norm_quantize; do growth $r 2112x1024 4224x1024 "" 5; done
growth column_sum 256x1024 2048x1024 "" 5 # without the table of segments, which every block reads
growth head_norm 2112x4x128 4224x4x128 "" 7 # of the sector that a rstd is written to, other rows have the rest
growth head_norm_bwd 2112x4x128 4224x4x128 head_norm_bwd 5

# Products of one wave: what each tile (or cluster) reads of its operands, and the result. M x N x K = 96 x 144 x 208.
wave() { # ROW KERNEL LEAST [BYTES% [CONFLICTS%]]
  run "$1" "$2"
  counts[0]=$3
  judge "$1 $2" "${4:-3}" "${5:-1}"
}
M=96 N=144 K=208
tiles() { echo $((($1 + $2 - 1) / $2)); } # EXTENT TILE
bf16_operands() { # TILE_M TILE_N
  echo $((2 * K * (M * $(tiles $N $2) + N * $(tiles $M $1))))
}
fp8_operands() { # TILE_M TILE_N CLUSTER: of a block's rows with the scales, which each block of a cluster reads
  local across=$(tiles $N $2) down=$(tiles $M $1)
  echo $((M * (K * $(tiles $across $3) + 8 * across) + N * K * down + 16 * down * across))
}
bf16() { # TILE CLUSTERS' TILE_M TILE_N
  wave bf16_tiles/small/96x144x208/$1 bf16_gemm $(($(bf16_operands $2 $3) + 2 * M * N))
}
fp8() { # TILE TILE_M TILE_N CLUSTER BYTES% CONFLICTS%
  wave fp8_tiles/small/96x144x208/$1 fp8_gemm $(($(fp8_operands $2 $3 $4) + 2 * M * N)) $5 ${6:-1}
}
bf16 128x192_c1 128 192
bf16 256x256_c2 256 256
bf16 128x64_c1 128 64
bf16 64x64_c1 64 64
bf16 32x64_c1 32 64
bf16 16x64_c1 16 64
# Conflicts of lanes that go on in the next row where N ends inside the tile. Each of the two scales of a row is a load of its own, which
# moves a sector; a block of a cluster that has no columns reads them too.
fp8 128x160_c1 128 160 1 3 4
fp8 128x160_c2 128 160 2 6 4
fp8 128x64_c1 128 64 1 4 11
fp8 64x128_c1 64 128 1 3 7
fp8 64x64_c1 64 64 1 3 11
fp8 64x32_c1 64 32 1 4 4
fp8 64x32_c2 64 32 2 6 4
fp8 64x16_c1 64 16 1 5
fp8 64x16_c2 64 16 2 7
# K in two parts: F32 products of each, then read and summed.
wave bf16_fast_tiles/small/96x144x208/16x64_c1_split2 bf16_gemm $(($(bf16_operands 16 64) + 2 * 4 * M * N))
wave fp8_fast_tiles/small/96x144x208/64x16_c2_split2 fp8_gemm $(($(fp8_operands 64 16 2) + 2 * 4 * M * N)) 5
wave fp8_fast_tiles/small/96x144x208/64x16_c2_split2 sum_splits $((2 * 4 * M * N + 2 * M * N))
# Weight gradients of one tile, or of its cluster's two, which read the scales of dy each; 256 rows of each leaf. Beyond that, the tables
# that say where leaves begin.
bf16_wgrad() { # LEAVES N K
  wave bf16_wgrad_tile_$1_leaves bf16_wgrad $((2 * 256 * $1 * ($2 + $3) + 4 * $2 * $3))
}
fp8_wgrad() { # LEAVES N K TOKENS
  wave fp8_wgrad_tile_$1_leaves fp8_wgrad $(($4 * ($2 + $3) + $4 / 128 * 4 * (2 * $2 + $3) + 4 * $2 * $3))
}
bf16_wgrad 1 128 256
bf16_wgrad 4 128 128
bf16_wgrad 8 128 128
bf16_wgrad 64 64 128
bf16_wgrad 512 64 64
fp8_wgrad 1 128 256 1024
fp8_wgrad 8 128 128 2048
fp8_wgrad 16 128 128 4096
fp8_wgrad 64 64 128 16384
fp8_wgrad 512 64 128 131072
# The head, M x H x V = 48 x 64 x 1024: the vocabulary once, h for each tile of 256 columns, targets, and statistics of 128 columns;
# backward: statistics of a row in sectors; dlogits; four slices of dh, whose tree waits in memory.
wave head partial_kernel $((2 * 64 * (1024 + 48 * 4) + 48 * 4 * 4 + 48 * 16 * 1024 / 128))
wave head_bwd dlogits_kernel $((2 * 64 * (1024 + 48 * 4) + 2 * 48 * 1024))
wave head_bwd dh_kernel $((2 * 1024 * (48 + 64) + 2 * 3 * 4 * 48 * 64 + 2 * 48 * 64))

# Known to move more, and no more than this:
run quantize_transposed # of the sector that a row's scale is written to, other blocks have the rest
judge quantize_transposed 7
run requantize_transposed quantize_transposed # and read from, from L2
judge requantize_transposed 13
growth rms_norm_bwd 2112x1024 4224x1024 "" 70 # dgamma's chains go down the columns: dy and x are read twice
run token_loss_gspo
judge token_loss_gspo 45 # logp, logp_old and advantage are read again once the mean ratio is known, from L2
run router
judge router 200 # the selection bias is read for each token, from L1
[ $status = 0 ] && echo "sim_cost: $tried operators move the bytes of cost()"
exit $status
