#!/usr/bin/env bash
# Hugging Face models as a user handles them: start from one, train, export, look inside; what cannot be used is one line and exit 10.
cd "$(dirname "$0")/../.." || exit
# shellcheck source=tests/e2e/lib/runs.sh
source tests/e2e/lib/runs.sh
models=tests/fixtures/hf

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

# Steps so small that no weight changes, on shards: what comes out is what went in, bit for bit.
still() { # model ranks settings...
  local model=$1 ranks=$2
  shift 2
  local dir=$work/$model.$ranks
  printf '[task]\nmax_prompt_tokens = 24\neval_problems = 8\n[train]\ntoken_budget = 256\nweight_decay = 0.0\n' >"$work/run.toml"
  printf '[sft]\nsteps = 1\nbatch_size = 4\nlr = 1e-37\nlr_min = 0.0\nmtp_loss_weight = 0.0\n[rl]\nmax_new_tokens = 24\n' >>"$work/run.toml"
  printf '[eval]\nproblems = 8\n' >>"$work/run.toml"
  $MPIRUN -np "$ranks" "$contender" train "$work/run.toml" --init "$models/$model" --run-dir "$dir" "$@" >"$work/log" 2>&1 ||
    complain "train from $model on $ranks ranks" "$work/log"
  runs=$((runs + 1))
  expect 0 "^$dir.out$" convert "$dir" "$dir.out" --max-shard-gb 0.0001
  [[ $(hash_of "$dir.out") =~ ^[0-9a-f]{32}$ ]] && [ "${BASH_REMATCH[0]}" = "$(hash_of "$models/$model")" ] || complain "$model: export differs from import" "$work/out"
  expect 0 "parameters: " inspect "$dir"
  expect 0 "^$dir.f32$" convert "$dir" "$dir.f32" --dtype f32
  [ "$(hash_of "$dir")" = "$(hash_of "$dir.f32")" ] || complain "$model: a run and its conversion have different hashes" "$work/out"
}
still qwen2 2 --set mesh.tp=2
still moonlight 4 --set mesh.tp=2 --set mesh.ep=4 --set model.bias_update_speed=0

run_toml=$work/run.toml
expect 10 'hidden_size: 64 contradicts' plan "$run_toml" --init $models/llama --set model.hidden_size=64
expect 10 'model.path: nowhere/config.json' plan "$run_toml" --init nowhere
expect 10 'exists already' convert $models/llama "$work/qwen2.2.out"
expect 10 'neither a Hugging Face model \(config.json\) nor a checkpoint nor a run directory' convert "$work" "$work/none"
expect 10 'no such file' inspect "$work/none"
expect 10 'README.md: no .gguf file, and no directory of a model or run$' inspect README.md
expect 10 'model.safetensors: a file of a model; its directory is the model$' convert $models/qwen3/model.safetensors "$work/none"
expect 10 'configs/tiny.toml: no .gguf file, and no directory of a model or run$' convert configs/tiny.toml "$work/none"
expect 10 'no name for the directory to write$' convert $models/qwen3 ""
expect 20 '/dev/null/out.tmp: cannot create the directory' convert $models/qwen3 /dev/null/out
expect 0 'hash ' inspect $models/qwen3/model.safetensors
expect 0 'lm_head' inspect $models/deepseek_v3_fp8

# A directory that is not whole: the same line from whatever looks at it. (inspect tells of a model without weights what it can.)
broken() { # name pattern command...: what is done to a copy of a sharded model
  local dir=$work/broken.$1 pattern=$2
  cp -r $models/llama "$dir"
  (cd "$dir" && "${@:3}")
  expect 10 "$pattern" convert "$dir" "$work/none"
  expect 10 "$pattern" generate --model "$dir" --ids 1,2
  [ "$(grep -vc '^device' "$work/out")" -eq 1 ] || complain "$1: not one line" "$work/out"
}
broken lost 'model-00003-of-00005.safetensors: the file is missing' rm model-00003-of-00005.safetensors
broken short 'model-00003-of-00005.safetensors: the tensors end at byte' truncate -s -7 model-00003-of-00005.safetensors
broken unlisted 'no weights: neither model.safetensors nor model.safetensors.index.json is there$' rm model.safetensors.index.json
broken pickled 'no weights: .*; pytorch_model.bin is not read' mv model.safetensors.index.json pytorch_model.bin
broken no_map 'model.safetensors.index.json: not an index of weights: no "weight_map"$' sed -i 's/weight_map/weights/' model.safetensors.index.json
broken family 'config.json: model_type: "gemma2" is not supported: deepseek_v2, .* are$' sed -i 's/"llama"/"gemma2"/' config.json
broken shape 'the weights are not those of the model: .*model.embed_tokens.weight is \[272, 32\], the model has \[272, 64\]' sed -i 's/"hidden_size": 32/"hidden_size": 64/' config.json

cp -r $models/qwen3 "$work/cut" && truncate -s -1 "$work/cut/model.safetensors"
expect 0 "^model +$models/qwen3: here$" doctor --config "$run_toml" --init $models/qwen3
expect 10 'the tensors end at byte' doctor --config "$run_toml" --init "$work/cut"
$MPIRUN -np 2 "$contender" generate "$run_toml" --init "$work/cut" --run-dir "$work/cut.run" >"$work/log" 2>&1
[ $? -eq 10 ] || complain "a truncated model does not end with 10" "$work/log"
[ "$(grep -c 'the tensors end at byte' "$work/log")" -eq 1 ] || complain "a truncated model is not one line" "$work/log"
$MPIRUN -np 2 "$contender" generate "$run_toml" --init $models/qwen3 --run-dir "$work/talk" --prompt 1+1= >"$work/log" 2>&1 ||
  complain "generate from a model" "$work/log"
finish "hub: $runs commands; export equals import on 2 and 4 ranks"
