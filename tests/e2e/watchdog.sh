#!/usr/bin/env bash
# Rows 1-3 of the fault table at the level of mpirun, on 2 and 4 ranks: a rank that is killed, crashes, leaves, stops or
# skips a collective ends the whole job with the right code within 5 s, nothing stays behind, and silence is named.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
tests=${CONTENDER:-build/release/contender}_mpi_tests
work=${WORK:-$(mktemp -d)}
MPIRUN=${MPIRUN:-mpirun --oversubscribe --quiet}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
runner=()
status=0

left_over() { # processes of the drill that are still there
  pgrep -fc -- "$tests drill $1" || true
}

expect() { # ranks watchdog_s fault code pattern: the drill ends with the code and says the pattern on one line
  local ranks=$1 watchdog_s=$2 fault=$3 code=$4 pattern=$5 log=$work/drill.log begin end got
  begin=$(date +%s%N)
  # shellcheck disable=SC2086  # MPIRUN is a list of words
  timeout -k 5 60 $MPIRUN -np "$ranks" "${runner[@]}" "$tests" drill "$watchdog_s" ${fault:+"$fault"} >"$log" 2>&1
  got=$?
  end=$(date +%s%N)
  local seconds=$(((end - begin) / 1000000000)) why=
  [ "$got" -eq "$code" ] || why="exit code $got, not $code"
  [ $seconds -le $((watchdog_s < 30 ? watchdog_s + 5 : 5)) ] || why="took $seconds s"
  [ "$(left_over "$watchdog_s")" -eq 0 ] || why="processes are left"
  [ -z "$pattern" ] || grep -qE -- "$pattern" "$log" || why="no line matches: $pattern"
  if [ -n "$why" ]; then
    echo "np=$ranks fault=${fault:-none}: $why"
    cat "$log"
    status=1
  fi
}

for ranks in 2 4; do
  expect $ranks 30 "" 0 '^drill done'
  expect $ranks 30 delay@3:*:2ms 0 '^drill done'
  expect $ranks 30 kill@3:1 137 ''
  expect $ranks 30 segv@3:1 139 ''
  expect $ranks 30 exit@3:0 1 ''
  expect $ranks 30 exit@3:1 1 ''
  expect $ranks 1 hang@3:1 18 '^rank [0-9] waited [0-9.]+ s for rank 1 in "norm" \(collective 4, step 3, phase update\): peer lost or hung'
  # Whoever notices first; 0 and 1 wait for each other in different collectives.
  expect $ranks 1 skip@3:1 18 '^rank [0-9] waited [0-9.]+ s for ranks? [0-9, ]+ in "[a-z]+" \(collective [45], step 3, phase update\): not all ranks made the same calls; rank [0-9] itself waits for rank'
done

# The same where the gather is one of NCCL (the stand-in, in the simulator): the stream of the device hangs, and who waits for it
# answers the watchdog's questions. Its communicator is made in step 1, by one more collective.
cuda_tests=$(dirname "$tests")/cuda_mpi_tests
if [ -x "$cuda_tests" ]; then
  host_tests=$tests tests=$cuda_tests runner=(env "LD_LIBRARY_PATH=$(dirname "$tests")/nccl" tools/sim --threads 1)
  expect 2 30 "" 0 '^drill done'
  expect 2 1 hang@3:1 18 '^rank 0 waited [0-9.]+ s for rank 1 in "norm" \(collective 5, step 3, phase update\): peer lost or hung'
  expect 2 1 skip@3:1 18 '^rank [01] waited [0-9.]+ s for rank [01] in "[a-z]+" \(collective [56], step 3, phase update\): not all ranks made the same calls; rank [01] itself waits for rank'
  tests=$host_tests runner=()
fi

# A job that is stopped as a whole for longer than the watchdog's limit (a laptop, a debugger) goes on when it is continued.
# shellcheck disable=SC2086
timeout -k 5 60 $MPIRUN -np 2 "$tests" drill 1 >"$work/stop.log" 2>&1 &
job=$!
sleep 0.4
read -r -d '' -a pids < <(pgrep -f -- "^$tests drill 1")
for pid in "${pids[@]}"; do # the others are then stopped while they wait for the first
  kill -STOP "$pid"
  sleep 0.3
done
sleep 2
kill -CONT "${pids[@]}"
wait "$job" || { echo "stopped and continued: exit code $?"; cat "$work/stop.log"; status=1; }

[ $status -eq 0 ] && echo "watchdog: all faults end the job as documented"
exit $status
