#!/usr/bin/env bash
# The machine code of the kernels on wgmma, as nvcc left it in the objects: HGMMA or QGMMA in each, and no stack, so nothing is spilled.
# (Products in series, which ptxas tells in words only, end the build.)
set -euo pipefail
build=$(dirname "$CONTENDER")
if [ ! -e "$build/cuda/gemm/fp8_gemm.cu.o" ]; then
  echo "sass: skipped, no CUDA toolkit"
  exit 0
fi
sass() { python3 tests/e2e/lib/sass.py "$@" >"$WORK/kernels"; }

# It can tell: these use mma.sync.
sass "$build"/cuda/linear/mma_gemm.cu.o
awk '$4 > 0 { found = 1 } END { exit found || !NR }' "$WORK/kernels" || { echo "sass: products of a warpgroup in mma_gemm.cu"; exit 1; }

sass "$build"/cuda/{gemm,head}/*.cu.o
awk '
  $3 > 0 { print "sass: " $1 " has " $3 " bytes of stack"; bad = 1 }
  $4 == 0 && $1 !~ /sum_splits|combine_kernel|finish_kernel/ { print "sass: no HGMMA or QGMMA in " $1; bad = 1 }
  $4 > 0 { ++kernels; products += $4; if ($2 > most) most = $2 }
  END {
    if (kernels < 30) { print "sass: " kernels + 0 " kernels with products, 30 and more expected"; bad = 1 }
    if (!bad) print "sass: " kernels " kernels with " products " HGMMA and QGMMA, " most " registers at most, no stack"
    exit bad
  }' "$WORK/kernels"
