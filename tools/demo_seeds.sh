#!/usr/bin/env bash
# tools/demo_seeds.sh COMMAND RANKS SEED...: runs the demo once per seed into runs/demo-seed<seed>, then prints one row
# per seed from each run's summary.json. MPIRUN comes from the Makefile.
set -uo pipefail
cd "$(dirname "$0")/.."
command=$1
ranks=$2
shift 2

columns=(sft_accuracy accuracy_before accuracy_after accuracy_after_greedy steps train_seconds max_abs_logp_diff)
field() { sed -nE "s/^.*\"$2\" *: *\"?([^\",}]*).*\$/\1/p" "$1" 2>/dev/null | head -n 1; }

status=0
for seed in "$@"; do
  rm -f "runs/demo-seed$seed/summary.json" # no row from an earlier run
  # shellcheck disable=SC2086  # MPIRUN and the command are lists of words
  $MPIRUN -np "$ranks" $command --set run.seed="$seed" --set run.dir="runs/demo-seed$seed" || status=1
done

row='%-6s'
for c in "${columns[@]}"; do row+="  %${#c}s"; done
# shellcheck disable=SC2059
printf "$row\n" seed "${columns[@]}"
for seed in "$@"; do
  cells=()
  for c in "${columns[@]}"; do
    v=$(field "runs/demo-seed$seed/summary.json" "$c")
    cells+=("${v:-missing}")
  done
  # shellcheck disable=SC2059
  printf "$row\n" "$seed" "${cells[@]}"
done
exit $status
