#!/usr/bin/env bash
# The command line as a user meets it, alone and under mpirun: one message for all ranks, the documented exit code, within
# two seconds, and nothing written. Commands that need no ranks do their work.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
contender=${CONTENDER:-build/release/contender}
work=${WORK:-$(mktemp -d)}
MPIRUN=${MPIRUN:-mpirun --oversubscribe --quiet}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
limit_ms=${LIMIT_MS:-2000}
status=0
tried=0

expect() { # ranks code lines pattern arguments...: exit code, lines on stderr, one of them matching
  local ranks=$1 code=$2 lines=$3 pattern=$4 begin ms got why=
  shift 4
  local launcher=$MPIRUN
  [ "$ranks" -eq 0 ] && launcher="" || launcher="$MPIRUN -np $ranks"
  begin=$(date +%s%N)
  # shellcheck disable=SC2086  # the launcher is a list of words
  timeout -k 5 60 $launcher "$contender" "$@" >"$work/out" 2>"$work/err"
  got=$?
  ms=$((($(date +%s%N) - begin) / 1000000))
  tried=$((tried + 1))
  [ "$got" -eq "$code" ] || why="exit code $got, not $code"
  [ "$ms" -le "$limit_ms" ] || why="took $ms ms"
  [ "$(wc -l <"$work/err")" -eq "$lines" ] || why="not $lines lines on stderr"
  [ -z "$pattern" ] || grep -qE -- "$pattern" "$work/out" "$work/err" || why="no line matches: $pattern"
  if [ -n "$why" ]; then
    echo "np=$ranks contender $*: $why"
    head -n 20 "$work/out" "$work/err"
    status=1
  fi
}

tiny=configs/tiny.toml
printf '[rl]\ngroup_size = 1\nlr = "fast"\n[trian]\nlr = 1.0\n' >"$work/bad.toml"
for ranks in 0 4; do
  expect $ranks 10 3 'bad.toml:3: rl.lr: expected number' train "$work/bad.toml"
  expect $ranks 10 3 'bad.toml:4: trian: unknown section; did you mean train\?' eval "$work/bad.toml"
  expect $ranks 10 1 'none.toml: cannot read the file: No such file' train "$work/none.toml"
  expect $ranks 10 1 'unknown command "trian" \(did you mean train\?\)' trian $tiny
  expect $ranks 10 1 'unknown argument "--sedd" \(did you mean --seed\?\)' train $tiny --sedd 1
  expect $ranks 10 1 '--fault kil@1:1: unknown kind' train $tiny --set mesh.tp=1 --set mesh.ep=1 --fault kil@1:1
  expect $ranks 10 1 'nothing to do' train $tiny --set mesh.tp=1 --set mesh.ep=1 --set sft.steps=0 --set rl.steps=0
  CUDA_VISIBLE_DEVICES='' expect $ranks 10 1 'run.device: cuda: ' train $tiny --set mesh.tp=1 --set mesh.ep=1 --set run.device=cuda
  expect $ranks 0 0 'Examples:' train --help
  expect $ranks 0 0 'DeepSeek-R1-Zero' train --help-config
  expect $ranks 0 0 'dispatch_grad' plan $tiny --np 4 --hardware h800
done
expect 0 10 2 'mesh.ep: 2 does not divide the 1 ranks' train $tiny --run-dir "$work/none"
expect 2 10 1 '--fault kill@1:2: the job has 2 ranks' train $tiny --run-dir "$work/none" --fault kill@1:2
expect 3 10 3 'the job has 3 ranks; their number must be a power of two' train $tiny --run-dir "$work/none"
expect 3 10 1 'the job has 3 ranks; their number must be a power of two' generate --model tests/fixtures/hf/qwen2 hi
expect 0 10 1 'nothing/metrics.jsonl' report "$work/nothing"
expect 0 0 0 '^run +.*mpirun .*-np 4 .* train configs/tiny.toml' doctor --config $tiny --np 4
expect 0 0 0 '^model +models/moonshotai/.* not here yet: hf download moonshotai/' doctor --config configs/moonlight_16b.toml --np 16 --hardware h800
expect 0 0 0 '^memory +out of memory: a rank needs ' doctor --config configs/r1_zero_671b.toml
expect 0 19 1 'contender: out of memory: a rank needs [0-9]+ GiB, h800 has 74.5 GiB' doctor --config configs/r1_zero_671b.toml --hardware h800
expect 2 10 1 'model.path: models/Qwen/Qwen2.5-0.5B-Instruct/config.json: No such file' train configs/qwen2.5_0.5b_gsm8k.toml
"$contender" plan $tiny --np 4 >/dev/full 2>"$work/err"
[ $? -eq 20 ] && grep -q 'could not be written to stdout' "$work/err" || { echo "a full disk behind stdout: not said"; status=1; }
[ ! -e runs/bad ] && [ ! -e "$work/nothing" ] && [ ! -e "$work/none" ] || { echo "a failed command left files"; status=1; }
echo "command line: $tried commands"
exit $status
