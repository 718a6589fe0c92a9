#!/usr/bin/env bash
# configs/r1_tiny.toml with a smaller model and a few steps: four stages in one command on 2 ranks; then evaluation with several
# samples, and generation from prompts, at the weights it left.
cd "$(dirname "$0")/../.." || exit
. tests/e2e/lib/runs.sh

dir=$work/r1_tiny
arguments=(configs/r1_tiny.toml --run-dir "$dir")
for s in model.{hidden_size=32,num_hidden_layers=2,intermediate_size=48,q_lora_rank=24,kv_lora_rank=16,initializer_range=0.1} \
  model.{qk_nope_head_dim=16,qk_rope_head_dim=8,v_head_dim=16,moe_intermediate_size=16} \
  task.difficulty=1 task.eval_problems=8 eval.problems=8 rl.prompts_per_step=4 rl.group_size=4 rl.steps=3 \
  stage.cold_start.sft.{steps=80,lr=1e-2,eval_every=0,stop_at_accuracy=0} stage.rejection.sft.{steps=4,num_prompts=32}; do
  arguments+=(--set "$s")
done

run_on() { # ranks name command arguments...: output in $work/name.log
  # shellcheck disable=SC2086  # the launcher is a list of words
  timeout -k 5 120 $MPIRUN -np "$1" "$contender" "$3" "${arguments[@]}" "${@:4}" >"$work/$2.log" 2>&1 || complain "$3 ${*:4} on $1 ranks: exit code $?" "$work/$2.log"
}
metrics() { # count pattern
  local got
  got=$(grep -cE -- "$2" "$dir/metrics.jsonl")
  [ "$got" -eq "$1" ] || complain "$got steps, not $1, match: $2"
}

run_on 2 train train --no-resume
metrics 80 '"stage":"cold_start"'
metrics 3 '"stage":"reasoning".*"language":.*"logp_diff":0,'
metrics 4 '"stage":"rejection".*"loss":'
metrics 3 '"stage":"final".*"logp_diff":0,'
order=$(sed -nE 's/.*"stage":"([a-z_]+)".*/\1/p' "$dir/metrics.jsonl" | uniq | paste -sd' ')
[ "$order" = "cold_start reasoning rejection final" ] || complain "stages: $order"
[ "$(grep -cE '(before|after) the rl stage: accuracy' "$work/train.log")" -eq 4 ] || complain "no accuracy before and after" "$work/train.log"
[ -s "$dir/report.html" ] || complain "no report"

for ranks in 1 2; do
  run_on $ranks eval.$ranks eval --set eval.samples=4
  says eval.$ranks 'pass@1 +pass@2 +pass@4 +maj@4'
  says eval.$ranks '^addition +8 +4 +0\.6 '
  run_on $ranks generate.$ranks generate --prompt "3+5=" --prompt "anything at all" --samples 2
  says generate.$ranks '^<user>3\+5=<assistant>'
  says generate.$ranks '^<user>anything at all<assistant>'
done
for what in eval generate; do # the line with the generation rate aside
  cmp <(grep -v tokens/s "$work/$what.1.log") <(grep -v tokens/s "$work/$what.2.log") || complain "$what: ranks make a difference"
done
# Nothing that a model says reaches the terminal raw.
run_on 1 generate.hot generate --prompt "3+5=" --samples 16 --set eval.temperature=20
says generate.hot '\\x[0-9A-F]{2}'
! LC_ALL=C grep -qaP '[\x00-\x08\x0b-\x1f\x7f]' "$work/generate.hot.log" || complain "generate prints control characters"
iconv -f utf-8 -t utf-8 "$work/generate.hot.log" >"$work/valid" 2>&1 || complain "generate prints bytes that are not UTF-8"
finish "r1_tiny: four stages in one command, then eval and generate"
