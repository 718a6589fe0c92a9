#!/usr/bin/env bash
# What only ptxas and SASS know of the products on wgmma: no spills, no wgmma in series, setmaxnreg obeyed; and, where the
# toolkit has cuobjdump, tensor core instructions in every kernel. tests/cuda/gemm/sass.sh [files; else those of cuda/gemm and cuda/head]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
cuda=${CUDA_HOME:-/usr/local/cuda}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ $# -gt 0 ] || set -- cuda/gemm/*.cu cuda/head/*.cu

failed=0
for file in "$@"; do
  log=$work/log cubin=$work/kernel.cubin
  "$cuda/bin/nvcc" -std=c++20 -O3 -arch=sm_90a -cubin -Xptxas -v -I. -Icsrc "$file" -o "$cubin" >"$log" 2>&1 || {
    cat "$log"
    exit 1
  }
  if grep -E 'Potential Performance Loss|[1-9][0-9]* bytes (stack frame|spill)' "$log"; then
    echo "$file: ptxas spills, or waits behind each wgmma"
    failed=1
  fi
  kernels=$(grep -c 'Compiling entry function' "$log")
  registers=$(sed -nE 's/.*Used ([0-9]+) registers.*/\1/p' "$log" | sort -n | uniq | paste -sd' ')
  products="not counted, no cuobjdump"
  if cuobjdump=$(PATH=$cuda/bin:$PATH command -v cuobjdump); then
    products=$("$cuobjdump" -sass "$cubin" | awk '/Function :/ { kernel = $3; count[kernel] += 0 }
      /[HQ]GMMA/ { ++count[kernel] }
      END { for (k in count) { sum += count[k]; if (!count[k] && k !~ /sum_splits|combine|finish/) { print "none in " k > "/dev/stderr"; none = 1 } }; print sum + 0; exit none }') || failed=1
  fi
  echo "$file: $kernels kernels, registers $registers, HGMMA and QGMMA: $products"
done
exit $failed
