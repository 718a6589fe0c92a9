#!/usr/bin/env bash
# run.device: which device a run takes, and what it says when it cannot have the one it was asked for. GPUs, drivers and
# memory are the simulator's; without the CUDA library the parts that need it are left out.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
contender=${CONTENDER:-build/release/contender}
work=${WORK:-$(mktemp -d)}
MPIRUN=${MPIRUN:-mpirun --oversubscribe --quiet}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 PTXSIM_QUIET=1
train="train configs/tiny.toml --set mesh.tp=1 --set mesh.ep=1 --set sft.steps=1 --set rl.steps=0 --set sft.eval_every=0 --set eval.problems=4 --set eval.samples=1 --no-resume --run-dir $work/run"
status=0
tried=0

expect() { # code pattern command...: exit code, a line that matches; a refusal is one line and writes nothing
  local code=$1 pattern=$2 got why=
  shift 2
  rm -rf "$work/run"
  timeout -k 5 60 "$@" >"$work/out" 2>"$work/err"
  got=$?
  tried=$((tried + 1))
  [ "$got" -eq "$code" ] || why="exit code $got, not $code"
  grep -qE -- "$pattern" "$work/out" "$work/err" || why="no line matches: $pattern"
  if [ "$code" -ne 0 ]; then
    [ "$(wc -l <"$work/err")" -eq 1 ] || why="not one line on stderr"
    [ ! -e "$work/run" ] || why="a refused run left files"
  fi
  if [ -n "$why" ]; then
    echo "$*: $why"
    head -n 20 "$work/out" "$work/err"
    status=1
  fi
}
said() { grep -qE -- "$1" "$work/out" "$work/err" || { echo "not said: $1"; head -n 20 "$work/err"; status=1; }; }

# Lists of words on purpose: $MPIRUN, $train.
# shellcheck disable=SC2086
{
  expect 0 '^device: CPU \(' "$contender" $train --set run.device=cpu
  said '^activations .*train.token_budget'
  said '^total .* of .*iB'
  grep -q '^device = "cpu"' "$work/run/config.toml" || { echo "config.toml does not keep run.device"; status=1; }
  CONTENDER_MEMORY_LIMIT=50000000 expect 19 'out of memory: a rank needs .*, CPU .* has 47.7 MiB for it; .*\(lowered by' "$contender" $train --set run.device=cpu

  if [ -e "$(dirname "$contender")/libcontender_cuda.so" ] && tools/sim true 2>/dev/null; then
    mkdir -p "$work/bin"
    cp "$contender" "$work/bin/contender"
    rm -f "$work/bin/libcontender_cuda.so"
    expect 10 'run.device: cuda: no libcontender_cuda.so beside the program' tools/sim "$work/bin/contender" $train --set run.device=cuda
    echo 'extern "C" void* contender_cuda_backend(int) { return nullptr; }' | ${CXX:-g++} -x c++ -shared -fPIC - -o "$work/bin/libcontender_cuda.so"
    expect 10 'run.device: cuda: .*/libcontender_cuda.so is of another build than this program' tools/sim "$work/bin/contender" $train --set run.device=cuda
    rm -rf "$work/bin"

    none='no CUDA driver'
    old='the driver is for CUDA 12.4, the library needs 13.0'
    other='NVIDIA A100.* has compute capability 8.0, the kernels are for 9.0'
    for launcher in "" "$MPIRUN -np 2"; do
      PTXSIM_DRIVER=0 expect 10 "run.device: cuda: $none" $launcher tools/sim "$contender" $train --set run.device=cuda
      PTXSIM_DRIVER=12040 expect 10 "run.device: cuda: $old" $launcher tools/sim "$contender" $train --set run.device=cuda
      PTXSIM_GPU=A100 expect 10 "run.device: cuda: $other" $launcher tools/sim "$contender" $train --set run.device=cuda
      expect 19 'out of memory: a rank needs .*, NVIDIA H200 has .*; contender plan shows all' $launcher tools/sim --memory 32M "$contender" $train --set run.device=cuda
    done
    PTXSIM_DRIVER=0 expect 0 "^device: CPU .*, because $none\$" $MPIRUN -np 2 tools/sim "$contender" $train
    [ "$(grep -c "$none" "$work/err")" -eq 1 ] || { echo "the reason is not said once"; status=1; }
    grep -q '^device = "auto"' "$work/run/config.toml" || { echo "config.toml does not keep run.device"; status=1; }
    expect 10 'rank 1 \(.*\) uses cpu, but rank 0 \(.*\) uses cuda, because rank 1 finds no CUDA driver' \
      $MPIRUN -np 1 tools/sim "$contender" $train : -np 1 env PTXSIM_DRIVER=0 tools/sim "$contender" $train
    expect 10 'rank 1 \(.*\) uses cuda, but rank 0 \(.*\) uses cpu, because rank 0 finds the driver is for CUDA 12.4' \
      $MPIRUN -np 1 env PTXSIM_DRIVER=12040 tools/sim "$contender" $train : -np 1 tools/sim "$contender" $train

    # The plan is what a run takes: with that and less than 1 MiB more it goes through.
    total=$("$contender" plan configs/nano.toml --np 1 --hardware h200 | awk '/^total .* MiB .* of /{print int($2) + 1; exit}')
    CONTENDER_MEMORY_LIMIT=$((total << 20)) expect 0 '^device: NVIDIA H200$' \
      tools/sim "$contender" train configs/nano.toml --set rl.steps=1 --set eval.problems=4 --set run.device=cuda --no-resume --run-dir "$work/run"
    said '^rl +1/1 '
    said "^total .* MiB .* of $total.0 MiB"

    expect 0 '^device +CUDA 13.0 on NVIDIA H800 .*, NVIDIA H800' tools/sim --devices 2 --gpu H800 "$contender" doctor
    PTXSIM_GPU=A100 expect 0 "^device +CPU, because $other" tools/sim "$contender" doctor
    said '^NCCL +'
  fi
}
rm -rf "$work/run"
echo "devices: $tried commands"
exit $status
