#!/usr/bin/env bash
# GGUF files as a user handles them: start from one on shards, train, export; convert, look inside; damaged ones are one line and exit 10.
cd "$(dirname "$0")/../.." || exit
# shellcheck source=tests/e2e/lib/runs.sh
source tests/e2e/lib/runs.sh
models=tests/fixtures/gguf

expect() { # code pattern arguments...: of a command without ranks
  local code=$1 pattern=$2 got
  shift 2
  "$contender" "$@" >"$work/out" 2>&1
  got=$?
  runs=$((runs + 1))
  [ $got -eq "$code" ] || complain "contender $*: exit $got, not $code" "$work/out"
  grep -qE -- "$pattern" "$work/out" || complain "contender $*: no line matches: $pattern" "$work/out"
}
hash_of() { "$contender" inspect "$1" | sed -n 's/^hash //p'; }

# A step from the file on shards leaves the bits of a step on one rank from the directory that convert makes of it.
same() { # model ranks settings...
  local model=$1 ranks=$2 dir=$work/$1
  shift 2
  printf '[task]\nmax_prompt_tokens = 24\neval_problems = 8\n[train]\ntoken_budget = 256\n' >"$work/run.toml"
  printf '[sft]\nsteps = 1\nbatch_size = 4\n[rl]\nmax_new_tokens = 24\n[eval]\nproblems = 8\n' >>"$work/run.toml"
  expect 0 "^$dir.hub$" convert "$models/$model.gguf" "$dir.hub" --dtype f32
  $MPIRUN -np "$ranks" "$contender" train "$work/run.toml" --init "$models/$model.gguf" --run-dir "$dir.many" "$@" >"$work/log" 2>&1 ||
    complain "train from $model.gguf on $ranks ranks" "$work/log"
  "$contender" train "$work/run.toml" --init "$dir.hub" --run-dir "$dir.one" >"$work/log" 2>&1 || complain "train from $dir.hub" "$work/log"
  runs=$((runs + 2))
  expect 0 "^$dir.many.out$" convert "$dir.many" "$dir.many.out" --dtype f32
  expect 0 "^$dir.one.out$" convert "$dir.one" "$dir.one.out" --dtype f32
  [[ $(hash_of "$dir.many.out") =~ ^[0-9a-f]{32}$ ]] && [ "${BASH_REMATCH[0]}" = "$(hash_of "$dir.one.out")" ] ||
    complain "$model: $ranks ranks from the file and one from the directory differ" "$work/log"
  [ "$(hash_of "$dir.one.out")" != "$(hash_of "$dir.hub")" ] || complain "$model: the step changed nothing" "$work/log"
}
same llama 2 --set mesh.tp=2
same qwen2 4 --set mesh.tp=2

expect 0 '^model.layers.\*.mlp.gate_proj.weight +80 x 32 +Q4_0 +2 ' inspect $models/llama.gguf
expect 0 'the weights are those of the metadata' inspect $models/qwen2.gguf
expect 10 'no tensor token_embd.weight' inspect $models/tokenizer_smol.gguf
expect 10 'none.gguf: cannot open' convert "$work/none.gguf" "$work/none"
head -c 60000 $models/llama.gguf >"$work/cut.gguf"
expect 10 'cut.gguf: tensor|cut.gguf: 60000 bytes' convert "$work/cut.gguf" "$work/none"
$MPIRUN -np 2 "$contender" train "$work/run.toml" --init "$work/cut.gguf" --run-dir "$work/cut" >"$work/log" 2>&1
[ $? -eq 10 ] || complain "a truncated GGUF does not end with 10" "$work/log"
[ "$(grep -c 'cut.gguf' "$work/log")" -eq 1 ] || complain "a truncated GGUF is not one line" "$work/log"
expect 10 "^contender: --model: $models: the model is a file in it: .*.gguf$" generate --model $models x
expect 10 "^contender: $models: the model is a file in it: .*.gguf$" convert $models "$work/none"
finish "gguf: $runs commands; 2 and 4 ranks from a file leave the bits of one from the directory that convert makes"
