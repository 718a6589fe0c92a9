#!/usr/bin/env bash
# The CUDA backend in whole runs, in the simulator: both nano models train, sample and evaluate; layouts of 2 and 4 ranks leave the
# bits of one rank; checkpoints go on on CUDA to the bit, and on the CPU; what ends a run says why.
cd "$(dirname "$0")/../.." || exit
. tests/e2e/lib/runs.sh
build=$(dirname "$contender")
if [ ! -e "$build/libcontender_cuda.so" ] || [ ! -e "$build/ptxsim/libcudart.so.13" ]; then
  echo "cuda: skipped, no CUDA toolkit"
  exit 0
fi
export PTXSIM_QUIET=1 PTXSIM_LIBDIR=$build/ptxsim
sim="tools/sim --threads 1"

small=(--set rl.steps=3 --set rl.prompts_per_step=4 --set rl.max_new_tokens=16 --set rl.overlong_buffer=16
  --set eval.problems=4 --set metrics.tensorboard=false)
cuda() { # name ranks exit_code settings...
  local name=$1 ranks=$2 code=$3 settings=() s
  shift 3
  for s in "$@"; do settings+=(--set "$s"); done
  run "$name" "$ranks" "$code" "configs/$family.toml" "${small[@]}" --set run.device=cuda "${settings[@]}"
}
layout() { # name ranks settings...: must equal the run on one rank of the same family
  local name=$1
  cuda "$1" "$2" 0 "${@:3}" || return
  [ "$(summary_of "$name" max_abs_logp_diff)" = 0.0 ] || complain "$name: max_abs_logp_diff is $(summary_of "$name" max_abs_logp_diff)"
  [ "$name" = "$family" ] || same "$name" "$family"
}

family=nano
layout nano 1
says nano '^device: NVIDIA H200'
[ "$(steps_of "$work/nano/metrics.jsonl" | grep -cE '"kl":0\.[0-9]*[1-9].*"grad_norm":[0-9.]*[1-9]')" -eq 2 ] ||
  complain "nano does not learn: nothing is shown about RL" "$work/nano/metrics.jsonl"
layout ep2 2 mesh.ep=2
layout tp2 2 mesh.tp=2
layout dp2 2
layout tp2_dp2_ep4 4 mesh.tp=2 mesh.ep=4
layout dp4_ep2 4 mesh.ep=2 train.recompute=full rollout.max_sequences=4

fp8=(train.precision=fp8 model.v_head_dim=64 model.qk_nope_head_dim=48 model.intermediate_size=256)
cuda fp8 1 0 "${fp8[@]}"
cuda fp8_dp2_tp2_ep4 4 0 "${fp8[@]}" mesh.tp=2 mesh.ep=4 && same fp8_dp2_tp2_ep4 fp8

family=nano_gqa
layout nano_gqa 1
layout gqa_tp2 2 mesh.tp=2
layout gqa_dp2 2 train.recompute=selective

# NCCL between two GPUs; a stand-in has its place where there is none.
family=nano
if [ -e "$build/nccl/libnccl.so.2" ]; then
  sim="tools/sim --threads 1 --devices 2"
  LD_LIBRARY_PATH=$build/nccl${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} layout nccl_ep2 2 mesh.ep=2 mesh.transport=nccl
  sim="tools/sim --threads 1"
fi

# Sequences share a cache that holds three of them.
layout small_cache 1 rollout.kv_pages=9

# A checkpoint goes on on CUDA, alone and on another layout, to the bit; and on the CPU, whose sums are others.
run resumed 1 3 configs/nano.toml "${small[@]}" --set run.device=cuda --fault sigusr1@1:0
for copy in resumed_tp2 resumed_on_cpu; do cp -r "$work/resumed" "$work/$copy"; done
layout resumed 1
layout resumed_tp2 2 mesh.tp=2
if sim='' run resumed_on_cpu 1 0 configs/nano.toml "${small[@]}" --set run.device=cpu --resume; then
  says resumed_on_cpu 'going on from .*/step_2: step 2'
  cmp -s <(steps_of "$work/nano/metrics.jsonl" | head -n 2) <(steps_of "$work/resumed_on_cpu/metrics.jsonl" | head -n 2) ||
    complain "resumed_on_cpu: the steps before the checkpoint are not those of nano"
  [ "$(wc -l <"$work/resumed_on_cpu/metrics.jsonl")" -eq 3 ] || complain "resumed_on_cpu: not 3 steps" "$work/resumed_on_cpu.log"
fi

# The commands that only sample.
sampling() { # pattern command arguments...
  local pattern=$1
  shift
  runs=$((runs + 1))
  # shellcheck disable=SC2086  # a list of words
  timeout -k 5 60 $sim "$contender" "$1" configs/nano.toml --set run.device=cuda --set eval.problems=4 --set task.eval_problems=4 \
    --checkpoint "$work/nano/step_3" "${@:2}" >"$work/$1.log" 2>&1 || complain "$1: exit code $?" "$work/$1.log"
  says "$1" "$pattern"
}
sampling '^addition +4 +1 +1 +0' eval
sampling '^<user>1\+1=<assistant>' generate --prompt 1+1= --samples 2

# A Hugging Face model, talked to: the recorded greedy tokens.
recorded() { sed -nE "s/.*\"$1\": \[([^]]*)\].*/\1/p" tests/fixtures/hf/qwen2/expected.json | tr -d ' ' | cut -d, -f1-"$2"; }
$sim "$contender" generate --model tests/fixtures/hf/qwen2 --set run.device=cuda --temperature 0 --max-new-tokens 64 --ids "$(recorded tokens 16)" \
  </dev/null >"$work/talk" 2>"$work/talk.log" || complain "generate --model" "$work/talk.log"
[ "$(tr ' ' ',' <"$work/talk")" = "$(recorded greedy 64)" ] || complain "qwen2 says something else on a GPU" "$work/talk"
runs=$((runs + 1))

# A model whose numbers overflow ends where its first token would be drawn.
for ranks in 1 2; do
  cuda "overflow$ranks" $ranks 17 model.routed_scaling_factor=1e39 "mesh.tp=$ranks"
  line='^(contender|rank [0-9]+): sampling: the logits of prompt [0-9]+( of the evaluation)?, sample 0, token 0 are not finite'
  says "overflow$ranks" "$line"
  [ "$(grep -cE '^(contender|rank)' "$work/overflow$ranks.log")" -eq 1 ] || complain "overflow$ranks: more than one line" "$work/overflow$ranks.log"
done

finish "cuda: $runs runs of two nano models, alone and on every product of axes that fits 2 ranks and some that fit 4: the same bits"
