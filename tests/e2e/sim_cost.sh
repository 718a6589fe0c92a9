#!/usr/bin/env bash
# Kernels against cost(). The memory-bound ones: the bytes that the simulator counts are within 5% of the operands', no sector is
# asked for twice, shared memory has no bank conflicts. Each operator runs once, alone, on a small shape of
# bench/cuda. The simulator has no caches: what a GPU would find there counts here.
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

# Products whose one tile covers them: operands once, result once.
run bf16_tiles/small/96x144x208/128x192_c1 bf16_gemm
judge bf16_gemm 3
run bf16_tiles/small/96x144x208/256x256_c2 bf16_gemm
judge bf16_gemm_cluster 3
run fp8_tiles/small/96x144x208/128x160_c1 fp8_gemm
judge fp8_gemm 3 4 # conflicts of lanes that go on in the next row where N ends inside the tile
run fp8_tiles/small/96x144x208/128x160_c2 fp8_gemm
judge fp8_gemm_cluster 6 4 # each block of the cluster reads the scales of its rows

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
