#!/usr/bin/env bash
# Everything there is to know about the CUDA backend on the GPU of this machine, in one command of under nine minutes:
# its tests, a few steps of training, every kernel bench beside its baseline, compute-sanitizer. Writes RESULTS/<date>-<gpu>.md
# and .json. Each phase has a time limit of its own; the report is written whatever fails or runs out of time.
#   tools/gpu_check.sh            what build/release has, else build/gpu/bundle.tar.gz (make gpu-bundle), else it builds
#   RESULTS=DIR                   where the report goes (bench/results)
#   GPU_CHECK_LIMIT_S=520         of the whole
#   GPU_CHECK_SIM=1               a rehearsal without a GPU: everything in the simulator, on small shapes
set -uo pipefail
cd "$(dirname "$0")/.."
started=$(date +%s)
limit_s=${GPU_CHECK_LIMIT_S:-520}
sim=${GPU_CHECK_SIM:-}
results=${RESULTS:-$([ -n "$sim" ] && echo build/gpu_check || echo bench/results)}
work=$(mktemp -d)
phases=() # name|limit|seconds|outcome
rows=$work/rows.jsonl
: >"$rows"
mkdir -p "$results"

# Seconds left, of those that the report does not need.
left() { echo $((limit_s - 5 - ($(date +%s) - started))); }

# phase NAME LIMIT_S COMMAND...: its output is $work/NAME.log, its status $last.
phase() {
  local name=$1 limit=$2 begin seconds
  shift 2
  [ "$limit" -le "$(left)" ] || limit=$(left)
  if [ "$limit" -lt 2 ]; then
    phases+=("$name|0|0|no time left")
    last=124
    return
  fi
  begin=$(date +%s.%N)
  timeout -k 5 "$limit" "$@" >"$work/$name.log" 2>&1 </dev/null
  last=$?
  seconds=$(awk -v a="$begin" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
  case $last in
    0) phases+=("$name|$limit|$seconds|done") ;;
    124 | 137) phases+=("$name|$limit|$seconds|ended at its limit of $limit s") ;;
    132) phases+=("$name|$limit|$seconds|illegal instruction: built for another CPU (make gpu-bundle ARCH=x86-64-v3)") ;;
    *) phases+=("$name|$limit|$seconds|exit status $last") ;;
  esac
  echo "gpu_check: $name: ${phases[-1]##*|} ($seconds s)"
}
skip() { # NAME WHY
  phases+=("$1|0|0|skipped: $2")
  echo "gpu_check: $1: skipped: $2"
}
# Adds to the outcome of the last phase.
note() { phases[-1]="${phases[-1]}; $*"; }
note_gtest() { # NAME
  [ -e "$work/$1.log" ] || return
  note "$(grep -c '^\[       OK \]' "$work/$1.log") passed, $(grep '^\[  FAILED  \]' "$work/$1.log" | grep -oE '[A-Za-z]+[A-Za-z0-9_/]*\.[A-Za-z0-9_/]+' | sort -u | wc -l) failed, $(grep -c '^\[  SKIPPED \]' "$work/$1.log") skipped"
}

# What failed tests said and the test that never ended; of another program, its end.
excerpt() { # LOG
  if grep -q '^\[ RUN' "$1"; then
    awk '/^\[ RUN/ { open = 1; text = "" } open { text = text $0 "\n" } /^\[       OK|^\[  SKIPPED/ { open = 0; text = "" }
      /^\[  FAILED/ { printf "%s", text; open = 0; text = "" } /^=========/ && !open { print } END { printf "%s", text }' "$1" | head -n 80
  else
    grep -v '^|' "$1" | tail -n 40
  fi
}
# Of each product of the tiles' rows, the best one.
missed_tiles() { # LOG
  awk -F' *[|] *' '$2 ~ /_tiles\// {
      tile = product = $2; sub(/.*\//, "", tile); sub(/\/[^\/]*$/, "", product)
      if (!(product in gain)) order[++n] = product
      if ($9 + 0 >= gain[product] + 0) { gain[product] = $9 + 0; best[product] = tile; us[product] = $3 }
    }
    END {
      print "| product | best tile | us | x chosen |\n|---|---|--:|--:|"
      for (i = 1; i <= n; ++i) if (gain[order[i]] > 1.03) { printf "| %s | %s | %s | %.2f |\n", order[i], best[order[i]], us[order[i]], gain[order[i]]; ++missed }
      printf "\n%d of %d products.\n", missed, n
    }' "$1"
}
query() { nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null | head -1 | grep . || echo "-"; }
text_of() { sed 's/\\/\\\\/g; s/"/\\"/g; s/[[:cntrl:]]/ /g' <<<"$1"; }

report() {
  local file p name limit seconds outcome comma=
  clocks_after=$(query clocks.sm,clocks.mem,temperature.gpu,power.draw)
  file=$results/$(date +%F)-$(tr 'A-Z ' 'a-z-' <<<"${gpu#NVIDIA }")
  {
    echo "# $gpu, $(date +%F)"
    echo
    echo "\`${sim:+GPU_CHECK_SIM=1 }make gpu-check\`, commit $commit, driver $driver, programs of $source. SM and memory clock, temperature, power before:"
    echo "$clocks_before; after: $clocks_after. L2 is overwritten before every timed run; medians; random data. \`% datasheet\`"
    echo "and \`% measured peak\` are shares of the time that the slower of arithmetic and memory leaves."
    [ -z "$sim" ] || echo "A rehearsal in the simulator: no number here says anything about a GPU."
    echo
    echo "| phase | limit s | took s | outcome |"
    echo "|---|--:|--:|---|"
    for p in "${phases[@]}"; do
      IFS='|' read -r name limit seconds outcome <<<"$p"
      echo "| $name | $limit | $seconds | $outcome |"
    done
    for p in "$work"/bench-*.log; do
      [ -e "$p" ] || continue
      name=${p##*/bench-}
      echo
      echo "## ${name%.log}"
      echo
      grep -E '^(\||measured)' "$p" | sed 's/^measured.*/&\n/'
    done
    [ ! -e "$work/bench-tiles.log" ] || {
      echo
      echo "## Tiles that the launchers' scores miss"
      echo
      echo "The fastest tile of each product where it is more than 3% faster than the chosen one."
      echo
      missed_tiles "$work/bench-tiles.log"
    }
    for p in "${phases[@]}"; do
      IFS='|' read -r name limit seconds outcome <<<"$p"
      [[ $outcome == done* && ! $outcome =~ \ [1-9][0-9]*\ failed ]] || [ ! -s "$work/$name.log" ] || {
        echo
        echo "## The end of $name"
        echo
        echo '```'
        excerpt "$work/$name.log" | cut -c1-300
        echo '```'
      }
    done
  } >"$file.md"
  {
    printf '{"date": "%s", "gpu": "%s", "driver": "%s", "commit": "%s", "rehearsal": %s,\n' "$(date +%F)" "$(text_of "$gpu")" \
      "$driver" "$(text_of "$commit")" "$([ -n "$sim" ] && echo true || echo false)"
    printf ' "clocks_before": "%s", "clocks_after": "%s", "phases": [' "$clocks_before" "$clocks_after"
    for p in "${phases[@]}"; do
      IFS='|' read -r name limit seconds outcome <<<"$p"
      printf '%s\n  {"name": "%s", "limit_s": %s, "seconds": %s, "outcome": "%s"}' "$comma" "$name" "$limit" "$seconds" "$(text_of "$outcome")"
      comma=,
    done
    printf '],\n "rows": [\n'
    sed '$!s/$/,/' "$rows"
    printf ']}\n'
  } >"$file.json"
  echo "gpu_check: $file.md and .json, $(($(date +%s) - started)) s"
}

# --- the machine and the programs ---
gpu=$([ -n "$sim" ] && echo "simulated H200" || query name)
driver=$(query driver_version)
clocks_before=$(query clocks.sm,clocks.mem,temperature.gpu,power.draw)
commit=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
source=
trap 'report; rm -rf "$work"' EXIT
if [ "$gpu" = - ]; then
  echo "gpu_check: no GPU here (nvidia-smi); GPU_CHECK_SIM=1 rehearses in the simulator" >&2
  trap - EXIT
  exit 1
fi
bin=build/release
if [ ! -x $bin/cuda_bench ] && [ -e build/gpu/bundle.tar.gz ] || [ "${1:-}" = bundle ]; then
  bundle=$work/bundle
  mkdir -p "$bundle" && tar -xzf build/gpu/bundle.tar.gz -C "$bundle" || exit
  # shellcheck disable=SC1091  # part of the bundle
  . "$bundle/env"
  bin=$bundle/bin
  commit=$(cat "$bundle/commit")
  source="a bundle"
elif [ ! -x $bin/cuda_bench ]; then
  phase build 300 make $bin/{silicon_tests,cuda_tests,cuda_bench,contender,libcontender_cuda.so}
  source="a build made here"
else
  source="a build that was here"
fi
# The baseline of the products may lie with a Python package, where the loader does not look.
if [ -z "$sim" ]; then
  cublas=$(find -L /usr/local/cuda/lib64 /usr/lib /usr/local/lib /opt -name libcublas.so.13 -print -quit 2>/dev/null)
  [ -z "$cublas" ] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$(dirname "$cublas")
fi
run=()
small=()
sanitize='*'
if [ -n "$sim" ]; then
  export PTXSIM_LIBDIR=${PTXSIM_LIBDIR:-build/release/ptxsim}
  run=(tools/sim)
  small=(--smoke)
  sanitize='Shapes/CudaNorm.*/0'
fi

# --- the phases, what matters most first ---
phase silicon_tests 60 "${run[@]}" "$bin/silicon_tests" --gtest_color=no
note_gtest silicon_tests
phase cuda_tests 90 "${run[@]}" "$bin/cuda_tests" --gtest_color=no
note_gtest cuda_tests

phase doctor 20 "${run[@]}" "$bin/contender" doctor
if grep -q '^device *CUDA' "$work/doctor.log"; then
  phase train 60 "${run[@]}" "$bin/contender" train configs/nano.toml --set run.device=cuda --set "run.dir=$work/nano" --no-resume
  note "$(grep -cE '^rl .*reward' "$work/train.log") steps"
else
  skip train "contender says: $(sed -n 's/^device *//p' "$work/doctor.log")"
fi

# At most; most families need a few seconds.
for family in $("${run[@]}" "$bin/cuda_bench" --families); do
  case $family in
    bf16_gemm | fp8_gemm) seconds=75 ;;
    tiles) seconds=60 ;;
    attention | head) seconds=45 ;;
    *) seconds=15 ;;
  esac
  phase "bench-$family" $((seconds + 10)) "${run[@]}" "$bin/cuda_bench" "--family=$family" "--seconds=$seconds" "--json=$rows" "${small[@]}"
  [ ! -e "$work/bench-$family.log" ] || note "$(grep -c '^| [a-z_0-9]*/' "$work/bench-$family.log") rows, $(grep -cE '^\| [a-z_0-9]*/[^|]*\| - ' "$work/bench-$family.log") of them without a time"
done

if [ -z "$sim" ] && python3 -c 'import deep_gemm' 2>/dev/null; then
  phase bench-deepgemm 60 python3 tools/deepgemm_bench.py "$rows"
else
  skip bench-deepgemm "no DeepGEMM in PYTHONPATH"
fi

if [ -n "$sim" ] || command -v compute-sanitizer >/dev/null; then
  checker() { # TOOL
    if [ -n "$sim" ]; then echo tools/sim --check; else echo compute-sanitizer --tool "$1" --target-processes all --error-exitcode 9; fi
  }
  # shellcheck disable=SC2046  # words of a command
  phase memcheck 75 $(checker memcheck) "$bin/cuda_tests" --gtest_color=no "--gtest_filter=$sanitize:-*DeathTest*:*Errors*"
  note_gtest memcheck
  # shellcheck disable=SC2046
  phase racecheck 45 $(checker racecheck) "$bin/cuda_tests" --gtest_color=no '--gtest_filter=Shapes/*/0:-*DeathTest*:*Errors*'
  note_gtest racecheck
else
  skip memcheck "compute-sanitizer is not installed"
fi
failed=$(printf '%s\n' "${phases[@]}" | grep -cvE '\|(done|skipped)' || true)
[ "$failed" -eq 0 ]
