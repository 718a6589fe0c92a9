#!/usr/bin/env bash
# tools/test.sh BUILD_DIR: lint, the unit tests, the MPI tests on 1, 2 and 4 ranks, the simulator's tests, the CUDA tests in
# the simulator (plain, and checked with async work late), the planted bugs, the scripts of tests/e2e. One line each, the log of what failed, and last `N passed, N failed`. MPIRUN comes from the Makefile.
# A test counts as passed when it passed on at least one rank and failed on none; a skipped test does not count.
# A binary that dies or hangs without naming a failed test counts as one failure.
set -uo pipefail
cd "$(dirname "$0")/.."
build=$1
limit_s=${TEST_TIMEOUT_S:-900}
shards=${TEST_SHARDS:-$(nproc)}
logs=$build/logs
total_passed=0
total_failed=0
rm -rf "$logs"
mkdir -p "$logs"

add() { # name passed failed skipped seconds
  total_passed=$((total_passed + $2))
  total_failed=$((total_failed + $3))
  printf '%-36s %5d passed %5d failed %5d skipped %6.1f s\n' "$@"
}

report_gtest() { # name status seconds log...
  local name=$1 status=$2 seconds=$3 passed failed skipped
  shift 3
  # A test that began and never ended failed: the process died or was ended. A test may print without a newline, so
  # the marks are looked for anywhere in a line.
  read -r passed failed skipped < <(awk '
    function name_after(mark,  p, rest) {
      p = index($0, mark)
      if (!p) return ""
      rest = substr($0, p + length(mark))
      sub(/[ ,].*/, "", rest)
      return rest ~ /\./ ? rest : ""
    }
    function end_log() { if (open != "") failed[open] = 1; open = "" }
    FNR == 1 { end_log() }
    (n = name_after("[ RUN      ] ")) != "" { open = n }
    (n = name_after("[       OK ] ")) != "" { ok[n] = 1; open = "" }
    (n = name_after("[  SKIPPED ] ")) != "" { skipped[n] = 1; open = "" }
    (n = name_after("[  FAILED  ] ")) != "" { failed[n] = 1; open = "" }
    END {
      end_log()
      for (t in failed) f++
      for (t in ok) if (!(t in failed)) p++
      for (t in skipped) if (!(t in failed) && !(t in ok)) s++
      print p + 0, f + 0, s + 0
    }' "$@")
  if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
  if [ "$failed" -gt 0 ]; then
    echo "--- $name: exit status $status$([ "$status" -eq 124 ] && echo " (longer than $limit_s s)")"
    # What failed tests said, the test that never ended, and what was said between tests.
    awk '
      function show() { if (text != "") printf "%s:\n%s", log_name, text; open = 0; text = "" }
      FNR == 1 { show(); log_name = FILENAME }
      /\[ RUN      \] / { open = 1; text = "" }
      open { text = text $0 "\n" }
      /\[       OK \] |\[  SKIPPED \] / { open = 0; text = "" }
      /\[  FAILED  \] / { show() }
      !open && !/^\[|^ *$|^Running main|^Note: |^ *[0-9]+ FAILED TEST/ { print }
      END { show() }' "$@" | tail -n 200
  fi
  add "$name" "$passed" "$failed" "$skipped" "$seconds"
}

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { print b - a }'; }

start=$(now)
if tools/lint.sh >"$logs/lint.log" 2>&1; then lint=(1 0); else lint=(0 1); fi
cat "$logs/lint.log"
add lint "${lint[@]}" 0 "$(since "$start")"

# run_gtest NAME COMMAND...: the command once per shard, each on one core.
run_gtest() {
  local name=$1 i status=0 pids=() files=() p
  shift
  start=$(now)
  for ((i = 0; i < shards; i++)); do
    files+=("$logs/${name// /_}.$i.log")
    GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$i timeout -k 10 "$limit_s" "$@" --gtest_color=no \
      >"${files[i]}" 2>&1 </dev/null &
    pids+=($!)
  done
  for p in "${pids[@]}"; do wait "$p" || status=$?; done
  report_gtest "$name" "$status" "$(since "$start")" "${files[@]}"
}

# Each planted bug must end its process with a status other than 0 and the words that `--list` gives for it.
run_planted() {
  local passed=0 failed=0 bug words out status
  start=$(now)
  while IFS=$'\t' read -r bug words; do
    out=$(timeout -k 10 120 tools/sim --check "$build/planted_bugs" "$bug" 2>&1 </dev/null)
    status=$?
    if [ "$status" -ne 0 ] && [ "$status" -lt 124 ] && grep -qF -- "$words" <<<"$out"; then
      passed=$((passed + 1))
    else
      failed=$((failed + 1))
      printf -- '--- planted bug %s: exit status %d, expected "%s" in:\n%s\n' "$bug" "$status" "$words" "$(tail -n 20 <<<"$out")"
    fi
  done < <(tools/sim "$build/planted_bugs" --list)
  [ $((passed + failed)) -gt 0 ] || failed=1
  add planted_bugs "$passed" "$failed" 0 "$(since "$start")"
}

[ ! -x "$build/contender_tests" ] || run_gtest contender_tests "$build/contender_tests"

# Every reader of files from outside for a few seconds, from its seeds.
if compgen -G "$build/fuzz/*_fuzz" >/dev/null; then
  start=$(now)
  tools/fuzz.sh "$build" "${FUZZ_S:-3}" >"$logs/fuzz.log" 2>&1 </dev/null || cat "$logs/fuzz.log"
  passed=$(grep -c '| none |$' "$logs/fuzz.log")
  add fuzz "$passed" "$(($(compgen -G "$build/fuzz/*_fuzz" | wc -l) - passed))" 0 "$(since "$start")"
fi

[ ! -x "$build/ptxsim_tests" ] || run_gtest ptxsim_tests "$build/ptxsim_tests"
for tests in silicon_tests cuda_tests; do
  [ -e "$build/ptxsim/libcudart.so.13" ] && [ -x "$build/$tests" ] || continue
  run_gtest $tests tools/sim --devices 2 "$build/$tests"
  for seed in 1 2; do
    run_gtest "$tests late checked $seed" tools/sim --devices 2 --threads 1 --late --check --seed "$seed" "$build/$tests"
  done
done
[ ! -x "$build/planted_bugs" ] || run_planted

# run_mpi NAME RANKS COMMAND...: one log per rank, because lines of several ranks in one stream could not be counted.
run_mpi() {
  local name="$1 np=$2" np=$2
  export LOGS=$logs/${1// /_}.np$np
  shift 2
  start=$(now)
  mkdir -p "$LOGS"
  timeout -k 10 "$limit_s" $MPIRUN -np "$np" \
    bash -c 'exec "$@" --gtest_color=no >"$LOGS/rank$OMPI_COMM_WORLD_RANK.log" 2>&1' - "$@" \
    >"$LOGS/mpirun.log" 2>&1 </dev/null
  report_gtest "$name" $? "$(since "$start")" "$LOGS"/*.log
}

export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0} # Open MPI frees little at exit
for np in 1 2 4; do
  [ ! -x "$build/contender_mpi_tests" ] || run_mpi contender_mpi_tests $np "$build/contender_mpi_tests"
  [ -e "$build/ptxsim/libcudart.so.13" ] && [ -x "$build/cuda_mpi_tests" ] || continue
  for sim in "" "--late --check --seed $np"; do
    LD_LIBRARY_PATH=$PWD/$build/nccl run_mpi "cuda_mpi_tests${sim:+ late checked}" $np \
      tools/sim --threads 1 $sim "$build/cuda_mpi_tests"
  done
done

export CONTENDER=$PWD/$build/contender
for script in tests/e2e/*.sh; do
  [ -e "$script" ] || continue
  name=$(basename "$script" .sh)
  log=$logs/e2e-$name.log
  export WORK=$PWD/$logs/e2e-$name
  mkdir -p "$WORK"
  start=$(now)
  if timeout -k 10 "$limit_s" bash "$script" >"$log" 2>&1 </dev/null; then
    tail -n 1 "$log"
    add "e2e/$name" 1 0 0 "$(since "$start")"
  else
    echo "--- e2e/$name: exit status $?"
    tail -n 200 "$log"
    add "e2e/$name" 0 1 0 "$(since "$start")"
  fi
done

echo "$total_passed passed, $total_failed failed"
[ "$total_failed" -eq 0 ]
