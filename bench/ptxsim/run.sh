#!/usr/bin/env bash
# bench/ptxsim/run.sh BUILD_DIR: the simulator's numbers, one line each: measured, bar, held or not. Status 1 when one is not.
set -euo pipefail
cd "$(dirname "$0")/../.."
bench=$1/ptxsim_bench
missed=0

line() { # what value unit bar (at most, or "at least" when $5 says so)
  local ok
  ok=$(awk -v v="$2" -v b="$4" -v s="${5:-at most}" 'BEGIN { print (s == "at most" ? v <= b : v >= b) ? "ok" : "MISSED" }')
  [ "$ok" = ok ] || missed=1
  printf '%-66s %9.2f %-6s %-8s %6s   %s\n' "$1" "$2" "$3" "${5:-at most}" "$4" "$ok"
}
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { print a / b }'; }

rate=$(tools/sim --threads 1 --time "$bench" fp32 2>&1 >/dev/null | sed -nE 's/.*: ([0-9.]+) M\/s per thread/\1/p' | sort -g | tail -1)
line "fp32 tiled GEMM 512^3, warp instructions per core" "$rate" "M/s" 30 "at least"
wgmma=$(tools/sim --threads 2 "$bench" wgmma)
line "wgmma FP8 1024^3, hardware accumulation, 2 threads" "$(ratio "$wgmma" 1000)" s 0.30
line "launch of 132 blocks of 256 threads" "$(ratio "$(tools/sim "$bench" launch)" 0.001)" us 100
startup=$(for _ in 1 2 3 4 5; do tools/sim "$bench" startup; done | sort -g | head -1)
line "start-up: 128 kernels parsed, decoded and run, per MB of PTX" "$startup" ms 20

for kernel in fp32 wgmma axpy; do
  plain=$(tools/sim "$bench" $kernel 5)
  bar=3
  [ $kernel != axpy ] || bar=8
  line "$kernel checked against plain ($(printf '%.0f ms' "$plain"))" "$(ratio "$(tools/sim --check "$bench" $kernel 5)" "$plain")" x $bar
  line "$kernel adversarial against plain" "$(ratio "$(tools/sim --late "$bench" $kernel 5)" "$plain")" x 1.5
done
exit $missed
