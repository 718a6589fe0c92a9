#!/usr/bin/env bash
# The simulator's profile of a kernel whose counts are known: the ping-pong GEMM of tests/ptxsim/silicon/whole_gemm.cu, 192 x 256 x 320 in
# bf16, tiles of 64 x 128 x 64.
set -euo pipefail
build=$(dirname "$CONTENDER")
if [ ! -x "$build/silicon_tests" ]; then
  echo "sim_profile: skipped, no CUDA toolkit"
  exit 0
fi
json=$WORK/profile.json
PTXSIM_LIBDIR=$build/ptxsim tools/sim --profile="$json" "$build/silicon_tests" --gtest_filter=WholeGemm.PingPongBf16 >"$WORK/out" 2>&1

number() { # key: of the kernel, whose totals stand before its lines
  grep -o '"name": "silicon::ping_pong<false>.*"lines"' "$json" | grep -oE "\"$1\": [0-9]+" | head -1 | grep -oE '[0-9]+$'
}
expect() { # key value
  [ "$(number "$1")" = "$2" ] || { echo "sim_profile: $1 is $(number "$1"), expected $2"; cat "$WORK/out"; exit 1; }
}
expect blocks 2
expect tensor_flops $((2 * 192 * 256 * 320))
expect global_read_bytes $((6 * 5 * (64 + 128) * 128)) # six tiles, five stages each, rows of 128 bytes
expect global_written_bytes $((192 * 256 * 4))
grep -q 'whole_gemm.cu:[0-9]' "$WORK/out" || { echo "sim_profile: no source lines in the table"; exit 1; }
echo "sim_profile: bytes, flops and blocks of a GEMM are what its shape says"
