#!/usr/bin/env bash
# tools/fp8_loss.sh COMMAND SEED...: what train.precision = "fp8" costs the loss of 200 supervised steps of configs/tiny.toml on the CPU, beside
# FP32: of the means over all steps and over the last 50. One row per seed, then their mean with its standard error. Five minutes
# for eight seeds on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
export contender=$1
shift
export work=${WORK:-$(mktemp -d)}

run() { # seed precision
  local dir=$work/$1-$2
  "$contender" sft configs/tiny.toml --seed "$1" --run-dir "$dir" --no-resume --set run.device=cpu --set mesh.tp=1 --set mesh.ep=1 --set sft.steps=200 \
    --set sft.lr=2e-4 --set sft.lr_min=1e-4 --set train.precision="$2" >"$dir.log" 2>&1 || { cat "$dir.log"; exit 1; }
  sed -nE 's/.*"loss": *([0-9.e+-]+).*/\1/p' "$dir/metrics.jsonl" |
    awk -v what="$1 $2" '{ sum += $1; if (NR > 150) last += $1 } END { if (NR != 200) exit 1; print what, sum / NR, last / 50 }' >"$dir.mean"
}
export -f run
printf '%s fp8\n' "$@" >"$work/runs"
printf '%s bf16\n' "$@" >>"$work/runs"
xargs -P "$(nproc)" -L1 bash -c 'run "$@"' _ <"$work/runs"

cat "$work"/*.mean | sort -n | awk '
  function summary(v, n,  i, mean, sum) {
    for (i = 1; i <= n; ++i) mean += v[i] / n
    for (i = 1; i <= n; ++i) sum += (v[i] - mean) ^ 2
    return sprintf("%+.2f%% +- %.2f%%", mean, sqrt(sum / (n - 1) / n))
  }
  BEGIN { print "| seed | all 200 steps | last 50 |\n|---|---|---|" }
  $2 == "bf16" { all = $3; last = $4 }
  $2 == "fp8" { ++n; a[n] = 100 * ($3 / all - 1); l[n] = 100 * ($4 / last - 1); printf "| %s | %+.2f%% | %+.2f%% |\n", $1, a[n], l[n] }
  END { if (n > 1) printf "| mean and its standard error | %s | %s |\n", summary(a, n), summary(l, n) }'
