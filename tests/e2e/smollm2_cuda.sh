#!/usr/bin/env bash
# configs/smollm2_135m.toml with device = "cuda", in the simulator: SmolLM2's layer (9 heads of 64 on 3, hidden 576, tied head), one of
# its 30, under a smaller vocabulary. SFT, GRPO, eval and an answer beside the CPU's; 2 ranks leave the bits of one. What CUDA does not
# take is refused before the start.
cd "$(dirname "$0")/../.." || exit
# shellcheck source=tests/e2e/lib/runs.sh
source tests/e2e/lib/runs.sh
config=configs/smollm2_135m.toml

expect() { # code pattern command...: no file of a run, one line
  local code=$1 pattern=$2 got
  shift 2
  "$@" >"$work/out" 2>"$work/err"
  got=$?
  runs=$((runs + 1))
  [ $got -eq "$code" ] || complain "$*: exit $got, not $code" "$work/err"
  grep -qE -- "$pattern" "$work/err" || complain "$*: no line matches: $pattern" "$work/err"
  [ "$(wc -l <"$work/err")" -eq 1 ] && [ ! -e "$work/no" ] || complain "$*: more than a line" "$work/err"
}
odd=(--set model.path= --set model.hidden_size=580)
needs='model.hidden_size: 580: CUDA needs a multiple of 8; run.device = "cpu" takes every size$'
expect 10 "^$needs" "$contender" doctor --config $config --np 1 --hardware h200 "${odd[@]}"
expect 10 "^$needs" "$contender" plan $config "${odd[@]}" --set run.device=cuda

build=$(dirname "$contender")
if [ ! -e "$build/libcontender_cuda.so" ] || [ ! -e "$build/ptxsim/libcudart.so.13" ]; then
  finish "smollm2_cuda: refusals only, no CUDA toolkit"
fi
export PTXSIM_QUIET=1 PTXSIM_LIBDIR=$build/ptxsim
simulator="tools/sim --threads 1"
# shellcheck disable=SC2086  # a list of words
expect 10 "^contender: $needs" $simulator "$contender" train $config "${odd[@]}" --set run.device=cuda --run-dir "$work/no"

random_hub "$work/hub" 'family = "gqa"' 'vocab_size = 1024' 'hidden_size = 576' 'num_hidden_layers = 1' 'num_attention_heads = 9' \
  'num_key_value_heads = 3' 'head_dim = 64' 'intermediate_size = 1536' 'max_position_embeddings = 8192' 'rms_norm_eps = 1e-5' \
  'rope_theta = 100000.0' 'tie_word_embeddings = true'
# Rewards that differ within a group although nothing is right yet.
cat >"$work/worker" <<'END'
#!/bin/bash
while IFS= read -r line; do
  id=${line#*\"id\":}
  echo "{\"id\": ${id%%,*}, \"score\": 0.$((${#line} % 10))}"
done
END
chmod +x "$work/worker"
settings=(model.path="$work/hub" model.vocab_size=1024 model.num_hidden_layers=1 task.name=addition task.difficulty=1
  task.max_prompt_tokens=128 task.eval_problems=4 eval.problems=4 stage.cold_start.sft.steps=2 sft.batch_size=2 rl.steps=1
  rl.prompts_per_step=2 rl.group_size=2 rl.max_new_tokens=8 reward.type=command "reward.command=[\"$work/worker\"]" rl.verify_logp_every=1 metrics.tensorboard=false)
arguments=()
for s in "${settings[@]}"; do arguments+=(--set "$s"); done

sim=$simulator run cuda 1 0 $config "${arguments[@]}" --set run.device=cuda
sim=$simulator run cuda2 2 0 $config "${arguments[@]}" --set run.device=cuda
run cpu 1 0 $config "${arguments[@]}" --set run.device=cpu
says cuda '^device: NVIDIA H200'
[ "$(summary_of cuda max_abs_logp_diff)" = 0.0 ] || complain "log-probs of sampler and trainer: $(summary_of cuda max_abs_logp_diff)"
[ "$(sed -n 3p "$work/cuda/metrics.jsonl" | grep -cE '"stage":"grpo".*"grad_norm":[0-9.]*[1-9]')" -eq 1 ] || complain "GRPO does not learn" "$work/cuda/metrics.jsonl"
same cuda2 cuda

# BF16 beside FP32: loss and gradient norm of the SFT steps.
value() { sed -n "$3p" "$work/$1/metrics.jsonl" | sed -E "s/.*\"$2\":([^,]*),.*/\1/"; }
for step in 1 2; do
  for key in loss grad_norm; do
    awk -v a="$(value cuda $key $step)" -v b="$(value cpu $key $step)" 'BEGIN {exit !(a > 0 && b > 0 && (a - b) ^ 2 < (0.01 * b) ^ 2)}' ||
      complain "step $step: $key is $(value cuda $key $step) on CUDA, $(value cpu $key $step) on the CPU"
  done
done

# The weights that CUDA left, evaluated and asked on both.
"$contender" convert "$work/cuda" "$work/export" --dtype f32 >"$work/log" 2>&1 || complain "convert" "$work/log"
for device in cpu cuda; do
  launcher=
  [ $device = cpu ] || launcher=$simulator
  # shellcheck disable=SC2086  # a list of words
  $launcher "$contender" eval $config "${arguments[@]}" --set run.device=$device --checkpoint "$work/cuda/$(cat "$work/cuda/latest")" \
    >"$work/eval.$device" 2>"$work/log" || complain "eval on $device" "$work/log"
  grep -qE '^addition +4 ' "$work/eval.$device" || complain "eval on $device" "$work/eval.$device"
  # shellcheck disable=SC2086
  $launcher "$contender" generate --model "$work/export" --set run.device=$device --temperature 0 --max-new-tokens 8 "1+1=" \
    </dev/null >"$work/talk.$device" 2>"$work/log" || complain "generate on $device" "$work/log"
  runs=$((runs + 2))
done
cmp -s "$work/talk.cpu" "$work/talk.cuda" || complain "other greedy tokens on CUDA:" <(cat "$work/talk.cpu" "$work/talk.cuda")
finish "smollm2_cuda: $runs commands; SmolLM2's layer trains on CUDA as on the CPU, on 2 ranks with the bits of one"
