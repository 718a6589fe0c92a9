#!/usr/bin/env bash
# Input that cannot be used: one line that names the file, key or value, the documented exit code from all ranks, two seconds where
# no work is needed to see it, and nothing written or lost.
cd "$(dirname "$0")/../.." || exit
. tests/e2e/lib/runs.sh
limit_ms=${LIMIT_MS:-2000}

# What a run says of itself before its first step: its device, and the memory plan.
opening='^device: |^of one rank |^-+  |  [0-9.]+ [KMG]?i?B +|^$'

refused() { # ranks code pattern command config arguments...: one line on stderr behind the opening, in time
  local ranks=$1 code=$2 pattern=$3 begin ms got
  shift 3
  runs=$((runs + 1))
  begin=$(now_ms)
  # shellcheck disable=SC2086  # MPIRUN is a list of words
  timeout -k 5 60 $MPIRUN -np "$ranks" "$contender" "$@" >"$work/out" 2>"$work/err"
  got=$?
  sed -i -E "/$opening/d" "$work/err"
  ms=$(($(now_ms) - begin))
  [ "$got" -eq "$code" ] || complain "$*: exit code $got, not $code" "$work/err"
  grep -qE -- "$pattern" "$work/err" || complain "$*: no line matches: $pattern" "$work/err"
  [ "$(wc -l <"$work/err")" -eq 1 ] || complain "$*: not one line" "$work/err"
  [ "$ms" -le "$limit_ms" ] || complain "$*: took $ms ms"
}

config=$work/run.toml
write_config "$config"

# Keys that do not go together.
sed 's/^group_size = 4$/group_size = 1/' "$config" >"$work/alone.toml"
refused 2 10 'alone.toml:[0-9]+: rl.group_size: 1 with grpo: advantages are divided by the group.s standard deviation; use 2 or more' train "$work/alone.toml" --run-dir "$work/no"
refused 4 10 'mesh.tp: 4 does not divide 2, .* num_attention_heads = 6' train "$config" --set model.num_attention_heads=6 --set mesh.tp=4 --run-dir "$work/no"
refused 4 10 'mesh.ep: 4 does not divide n_routed_experts = 6' train "$config" --set model.n_routed_experts=6 --set mesh.ep=4 --run-dir "$work/no"
refused 2 10 'mesh.dp: tp x dp = 1 x 4 = 4, but the job has 2 ranks' train "$config" --set mesh.dp=4 --run-dir "$work/no"
refused 2 10 'max_prompt_tokens \+ max_new_tokens = 48 \+ 24 = 72 is beyond model.max_position_embeddings = 64' \
  train "$config" --set task.max_prompt_tokens=48 --run-dir "$work/no"

# Prompt files. All of them are read before the first stage begins.
prompts() { # name: a file of prompts, from stdin
  cat >"$work/$1.jsonl"
  sed 's/^\[task\]$/&\nname = "jsonl"/; s/^steps = 8$/steps = 0/' "$config" >"$work/$1.toml"
  sed -i "s#^\[task\]\$#&\ntrain_files = \"$work/$1.jsonl\"\neval_files = \"$work/held_out.jsonl\"#" "$work/$1.toml"
}
bad_prompts() { # name pattern
  refused 2 10 "^rank 0: $work/$1.jsonl:?$2" train "$work/$1.toml" --run-dir "$work/no"
}
echo '{"prompt": "1+1=", "answer": "2", "task": "addition"}' >"$work/held_out.jsonl"
good='{"prompt": "2+1=", "answer": 3, "task": "addition"}'
printf '%s\n{"prompt": "2\xff", "answer": "3"}\n' "$good" | prompts utf8
bad_prompts utf8 '2: .*UTF-8'
printf '%s\n{"prompt": "2+2=", "answer": "4", "prompt": "2+3="}\n' "$good" | prompts twice
bad_prompts twice '2: .*prompt'
printf '%s\n%s\n' "$good" "${good/addition/additon}" | prompts task
bad_prompts task '2: task "additon" has no rule \(known: addition, '
printf '\n%s\n{"prompt": "2+2="}\n' "$good" | prompts answer
bad_prompts answer '3: "answer" is missing'
{ printf '%s\n{"prompt": "' "$good"; head -c 10485760 /dev/zero | tr '\0' 'x'; printf '"}\n'; } | prompts line
bad_prompts line '2: line of more than 8 MiB'
printf '%s\n{"prompt": "2+2=", "answer": "4"\n' "$good" | prompts cut
bad_prompts cut '2: '
printf '\n \n' | prompts empty
bad_prompts empty ' no prompts'
printf '{"prompt": "%s", "answer": "4"}\n' "$(head -c 100 /dev/zero | tr '\0' '9')" | prompts long
bad_prompts long '1: prompt of 10[0-9] tokens, task.max_prompt_tokens = 24'
printf '{"prompt": "1+1=", "answer": "2", "task": "addition"}\n' | prompts leaked
bad_prompts leaked '1: the same prompt as .*held_out.jsonl:1, which is held out'
{ cat "$config"; printf '[[stage]]\nkind = "sft"\nname = "first"\n[[stage]]\nkind = "rl"\nname = "second"\n[stage.task]\n'; sed -n '/^name = "jsonl"/p; /_files = /p' "$work/answer.toml"; } >"$work/second.toml"
refused 2 10 "^rank 0: $work/answer.jsonl:3: \"answer\" is missing" train "$work/second.toml" --run-dir "$work/no"
solved='{"prompt": "3+1=", "answer": 4, "task": "addition", "solution": "<think>4</think><answer>4</answer>"}'
printf '%s\n%s\n' "$solved" "$good" | prompts solution
for command in train sft; do
  refused 2 10 "^rank 0: $work/solution.jsonl:2: \"solution\" is missing, which a stage of kind sft learns from" $command "$work/solution.toml" --set sft.steps=2 --run-dir "$work/no"
done
printf '%s\n' "${solved/<think>4/<think>$(printf '4%.0s' {1..60})}" | prompts beyond
refused 2 10 "^rank 0: $work/beyond.jsonl:1: 72 tokens with its solution, model.max_position_embeddings = 64" train "$work/beyond.toml" --set sft.steps=2 --run-dir "$work/no"
printf '%s\n' "$solved" | prompts solved
run solved 2 0 "$work/solved.toml" --set sft.steps=2 --set rl.steps=2
printf '%s\n' "$good" | prompts fine
refused 2 10 'task.train_files: there is no file' train "$work/fine.toml" --set task.train_files="$work/none.jsonl" --run-dir "$work/no"
run fine 2 0 "$work/fine.toml" --set rl.steps=2

# What training prompts are like held-out ones is said or refused; what a run was trained on, it goes on with.
words='a b c d e f g h i j'
printf '{"prompt": "%s", "answer": "1"}\n' "$words" >>"$work/held_out.jsonl"
printf '%s\n{"prompt": "%s k", "answer": "1"}\n' "$good" "$words" | prompts like
refused 2 10 "^rank 0: 1 of 2 training prompts shares 10 words in a row with held-out ones .*like.jsonl:2 as .*held_out.jsonl:2" \
  train "$work/like.toml" --set task.contamination=error --set task.max_prompt_tokens=32 --run-dir "$work/no"
several=(--set "task.train_files=[\"$work/fine.jsonl\", \"$work/solved.jsonl\"]" --set "task.train_weights=[1, 3]" --set rl.steps=2
  --set checkpoint.every=1 --set task.max_prompt_tokens=32)
run several 2 0 "$work/fine.toml" "${several[@]}"
rm -r "$work/several/$(cat "$work/several/latest")" "$work/several/latest"
sed 's/4/5/' "$work/solved.jsonl" >"$work/changed" && mv "$work/changed" "$work/solved.jsonl"
refused 2 10 '^rank 0: .*/step_[0-9]+ was written with other training prompts: task.train_files have changed since' \
  train "$work/fine.toml" "${several[@]}" --run-dir "$work/several"

# Programs run in sandboxes or not at all: where bubblewrap is missing or may not make namespaces there is no first step.
printf '{"prompt": "Print 3.", "task": "code", "tests": {"stdin": [{"input": "1", "output": "3"}]}}\n' | prompts sandbox
run sandbox 2 0 "$work/sandbox.toml" --set rl.steps=2
printf '{"prompt": "Print 3.", "task": "code", "tests": {"stdin": [{"input": "1"}]}}\n' | prompts tests
bad_prompts tests '1: "tests": test 1 of "stdin" has no "output"'
sandbox_needed='^rank 0: prompts of task "code" need a sandbox for programs: '
inside='bwrap --dev-bind / / --unshare-user --uid 1000 --gid 1000'
MPIRUN="$inside --disable-userns -- $MPIRUN" \
  refused 2 21 "${sandbox_needed}no sandbox can be made: bwrap: .*namespace" train "$work/sandbox.toml" --run-dir "$work/no"
MPIRUN="$inside --ro-bind /dev/null /usr/bin/bwrap -- $MPIRUN" \
  refused 2 21 "$sandbox_needed/usr/bin/bwrap is missing" train "$work/sandbox.toml" --run-dir "$work/no"
cat >"$work/rank_1_without" <<END
#!/bin/bash
[ "\$OMPI_COMM_WORLD_RANK" = 0 ] && exec "$contender" "\$@"
exec bwrap --dev-bind / / --ro-bind /dev/null /usr/bin/bwrap -- "$contender" "\$@"
END
chmod +x "$work/rank_1_without"
contender=$work/rank_1_without \
  refused 2 21 "$sandbox_needed/usr/bin/bwrap is missing .*\(rank 1\)$" train "$work/sandbox.toml" --run-dir "$work/no"

# Run directories and checkpoints.
touch "$work/file"
refused 2 10 "^rank 0: run.dir: cannot write to \"$work/file/run\": Not a directory" train "$config" --run-dir "$work/file/run"
refused 2 10 '^rank 0: run.dir: cannot write to "/proc/run": No such file or directory' train "$config" --run-dir /proc/run
run first 2 0 "$config" --set rl.steps=2
refused 2 10 '^rank 0: run.dir: ".*/first" holds a run with another configuration \(.* = 4 there, .* = 5 here\); choose another directory, or start over with --no-resume' \
  train "$config" --set rl.steps=2 --set rl.prompts_per_step=5 --run-dir "$work/first"
exec 9<>"$work/first/lock"
flock 9 # as another job does
for mode in --resume --no-resume; do
  refused 2 10 '^rank 0: run.dir: another job is writing to ".*/first": wait for its end, or end it' train "$config" --set rl.steps=2 $mode --run-dir "$work/first"
done
exec 9>&-
[ -e "$work/first/latest" ] || complain "--no-resume removed the run of another job"
refused 2 11 '^rank 0: run.dir: no checkpoint in ".*/no" to go on from' train "$config" --resume --run-dir "$work/no"
refused 2 11 '^rank 0: .*/step_99: .*MANIFEST.json: No such file' eval "$config" --checkpoint "$work/first/step_99" --run-dir "$work/no"
other() { # pattern settings...: evaluation with a checkpoint of another model
  local pattern=$1 settings=() s
  shift
  for s in "$@"; do settings+=(--set "$s"); done
  refused 2 10 "^rank 0: $work/first/step_10-?2?: a checkpoint of another model: $pattern" \
    eval "$config" "${settings[@]}" --checkpoint "$work/first/$(cat "$work/first/latest")" --run-dir "$work/no"
}
other 'model.embed_tokens.weight is 272 x 32, the model has 272 x 64' model.hidden_size=64
other 'it has no model.layers.[23].' model.num_hidden_layers=3
other 'the model has no model.layers.' model.num_nextn_predict_layers=0
other 'it has no model.layers.0.self_attn.q_proj.weight' model.q_lora_rank=0
[ ! -e "$work/no" ] || complain "a refused run made its directory: $(ls "$work/no")"

# Reward programs of the user. A program that breaks down later costs nothing: the run goes on where it was.
cat >"$work/worker" <<END
#!/bin/bash
# Scores from the length of the completion, until \$limit requests have been answered by all workers together.
while IFS= read -r line; do
  id=\${line#*\"id\":}
  id=\${id%%,*}
  echo >>"$work/requests"
  if [ "\$(wc -l <"$work/requests")" -gt "\$(cat "$work/limit")" ]; then
    case \$(cat "$work/mode") in
      die) exit 1 ;;
      hang) sleep 100 ;;
      garbage) echo "score: 1" ;;
    esac
  fi
  echo "{\"id\": \$id, \"score\": 0.\$((\${#line} % 10))}"
done
END
chmod +x "$work/worker"
sed "s#^\[reward\]\$#&\ntype = \"command\"\ncommand = [\"$work/worker\"]\ntimeout_seconds = 0.5\nworkers = 2#" "$config" >"$work/command.toml"
command_run() { # name code limit
  echo "$3" >"$work/limit"
  rm -f "$work/requests"
  run "$1" 2 "$2" "$work/command.toml" --set rl.steps=6
  ! pgrep -f "$work/worker" >/dev/null || complain "$1: reward workers are left"
}
echo none >"$work/mode"
command_run scored 0 1000000
for mode in die hang garbage; do
  case $mode in die) why=died ;; hang) why=timeout ;; garbage) why=garbage ;; esac
  echo $mode >"$work/mode"
  command_run "reward_$mode" 21 70
  says "reward_$mode" "^rank 0: [0-9]+ of 16 samples have no score \(reward.max_infra_errors = 0.1\): $why"
  [ "$(grep -c '^rank' "$work/reward_$mode.log")" -eq 1 ] || complain "reward_$mode: more than one rank speaks" "$work/reward_$mode.log"
  lines=$(wc -l <"$work/reward_$mode/metrics.jsonl")
  [ "$lines" -gt 8 ] && grep -q "step_$lines\$" "$work/reward_$mode/latest" || complain "reward_$mode: trained steps are lost" "$work/reward_$mode.log"
  command_run "reward_$mode" 0 1000000
  same "reward_$mode" scored
done
refused 2 10 '^rank 0: reward.command: cannot run ".*/nowhere": No such file or directory' train "$work/command.toml" --set 'reward.command=["'"$work"'/nowhere"]' --run-dir "$work/no_reward"

finish "bad input: $runs runs, each refused in one line with its exit code, or finished"
