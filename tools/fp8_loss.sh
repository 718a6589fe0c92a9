#!/usr/bin/env bash
# tools/fp8_loss.sh COMMAND SEED...: what train.precision = "fp8" costs the mean loss of 200 supervised steps of configs/tiny.toml on the CPU,
# beside FP32. Each seed is run with 1, 2 and 4 data slots, whose last bits differ: how far equals drift apart. One row per seed,
# the mean of the three, and the mean of all with its standard error. Eight minutes for four seeds on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
export contender=$1
shift
export work=${WORK:-$(mktemp -d)}

run() { # seed slots precision
  local dir=$work/$1-$2-$3
  "$contender" sft configs/tiny.toml --seed "$1" --run-dir "$dir" --no-resume --set run.device=cpu --set mesh.tp=1 --set mesh.ep=1 --set mesh.data_slots="$2" \
    --set sft.steps=200 --set sft.lr=2e-4 --set sft.lr_min=1e-4 --set checkpoint.every=0 --set train.precision="$3" >"$dir.log" 2>&1 || { cat "$dir.log"; exit 1; }
  sed -nE 's/.*"loss": *([0-9.e+-]+).*/\1/p' "$dir/metrics.jsonl" |
    awk -v what="$1 $2 $3" '{ sum += $1; if (NR > 150) last += $1 } END { if (NR != 200) exit 1; print what, sum / NR, last / 50 }' >"$dir.mean"
}
export -f run
for seed in "$@"; do
  for slots in 1 2 4; do
    printf '%s\n' "$seed $slots fp8" "$seed $slots bf16"
  done
done | sort -k3r | xargs -P "$(nproc)" -L1 bash -c 'run "$@"' _

cat "$work"/*.mean | sort -n | awk '
  function mean_of(v, n,  i, s) { for (i = 1; i <= n; ++i) s += v[i]; return s / n }
  function spread_of(v, n,  i, s, m) { m = mean_of(v, n); for (i = 1; i <= n; ++i) s += (v[i] - m) ^ 2; return sqrt(s / (n - 1)) }
  { all[$1, $2, $3] = $4; late[$1, $2, $3] = $5; if (!seen[$1]++) seeds[++count] = $1 }
  END {
    print "| seed | all 200 steps | last 50 | FP32, standard deviation over slots |\n|---|---|---|---|"
    for (i = 1; i <= count; ++i) {
      s = seeds[i]
      n = 0
      for (slots = 1; slots <= 4; slots *= 2) { ++n; f[n] = all[s, slots, "fp8"]; b[n] = all[s, slots, "bf16"]; g[n] = late[s, slots, "fp8"]; c[n] = late[s, slots, "bf16"] }
      a[++k] = 100 * (mean_of(f, n) / mean_of(b, n) - 1)
      l[k] = 100 * (mean_of(g, n) / mean_of(c, n) - 1)
      printf "| %s | %+.2f%% | %+.2f%% | %.2f%%, %.2f%% |\n", s, a[k], l[k], 100 * spread_of(b, n) / mean_of(b, n), 100 * spread_of(c, n) / mean_of(c, n)
    }
    if (k > 1) printf "| mean and its standard error | %+.2f%% +- %.2f%% | %+.2f%% +- %.2f%% | |\n", mean_of(a, k), spread_of(a, k) / sqrt(k), mean_of(l, k), spread_of(l, k) / sqrt(k)
  }'
