#!/usr/bin/env bash
# The four stages of R1 on a model that comes as Hugging Face files, with prompts from JSONL files: mathematics, a program with its
# tests, general text. On 2 ranks; evaluated, asked, exported and asked again; and stopped between two steps of the rejection stage,
# from where one rank leaves the bits of two.
cd "$(dirname "$0")/../.." || exit
# shellcheck source=tests/e2e/lib/runs.sh
source tests/e2e/lib/runs.sh

hub=$work/hub
random_hub "$hub" 'family = "gqa"' 'vocab_size = 576' 'hidden_size = 32' 'num_hidden_layers = 2' 'num_attention_heads = 4' \
  'num_key_value_heads = 2' 'head_dim = 8' 'intermediate_size = 64' 'max_position_embeddings = 8192' 'initializer_range = 0.1' \
  'tie_word_embeddings = true'

# ---- prompts ----
for a in 1 2 3; do
  for b in 1 2 3; do
    echo '{"prompt": "'$a'+'$b'?", "task": "math", "answer": "'$((a + b))'", "solution": "<think>'$a'+'$b'</think>\\boxed{'$((a + b))'}"}'
  done
done >"$work/math.jsonl"
cat >"$work/code.jsonl" <<'END'
{"prompt": "Print 7.", "task": "code", "tests": {"stdin": [{"input": "", "output": "7\n"}]}, "solution": "<think>p</think>```python\nprint(7)\n```"}
END
cat >"$work/text.jsonl" <<'END'
{"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi!"}], "answer": "Hello!", "solution": "<think>Hi</think><answer>Hello!</answer>"}
{"prompt": "Name a colour.", "answer": "red", "solution": "<think>colour</think><answer>red</answer>"}
END
echo '{"prompt": "1+4?", "task": "math", "answer": "5"}' >"$work/held_out.jsonl"
all='train_files = ["'$work/math.jsonl'", "'$work/code.jsonl'", "'$work/text.jsonl'"]'

cat >"$work/run.toml" <<END
[model]
path = "$hub"
[train]
token_budget = 256
weight_decay = 0.0
[task]
name = "jsonl"
$all
eval_files = ["$work/held_out.jsonl"]
max_prompt_tokens = 48
[sft]
batch_size = 12
lr = 1e-2
lr_min = 1e-2
[rl]
steps = 2
prompts_per_step = 4
group_size = 4
max_new_tokens = 64
lr = 1e-3
lr_min = 1e-3
kl_beta = 0.001
verify_logp_every = 1
[reward]                      # answers are boxed: there is no format to pay for, nor for rejection sampling to ask for
format_weight = 0.0
[rollout]
max_sequences = 16
[metrics]
tensorboard = false
[[stage]]
kind = "sft"
name = "cold_start"
[stage.sft]
steps = 60
[[stage]]
kind = "rl"
name = "reasoning"
[stage.task]
train_files = ["$work/math.jsonl", "$work/code.jsonl"]
train_weights = [3, 1]
[stage.reward]
language_weight = 0.5
[[stage]]
kind = "rejection"
name = "rejection"
[stage.task]
train_files = ["$work/math.jsonl", "$work/code.jsonl"]
[stage.sft]
steps = 4
batch_size = 4
num_prompts = 10
samples_per_prompt = 2
lr = 1e-3
lr_min = 1e-3
[[stage]]
kind = "rl"
name = "final"
[stage.rl]
steps = 3
temperature = 0.7
END

"$contender" doctor --config "$work/run.toml" --np 2 >"$work/log" 2>&1 || complain "doctor" "$work/log"
grep -q '^stage final: 12 prompts, 1 held out$' "$work/log" || complain "doctor counts other prompts" "$work/log"

# ---- four stages in one command ----
run straight 2 0 "$work/run.toml"
dir=$work/straight
order=$(sed -nE 's/.*"stage":"([a-z_]+)".*/\1/p' "$dir/metrics.jsonl" | uniq -c | xargs)
[ "$order" = "60 cold_start 2 reasoning 4 rejection 3 final" ] || complain "stages: $order"
[ "$(grep -cE '"stage":"(reasoning|final)".*"logp_diff":0,' "$dir/metrics.jsonl")" -eq 5 ] || complain "log-probs of sampler and trainer differ" "$dir/metrics.jsonl"
for question in '.+.?' 'Print 7' 'Hi!'; do # the policy is right now and then, and its programs run
  grep -qE "\"prompt\":\"[^\"]*user.n$question.*\"accuracy\":1" "$dir/completions.jsonl" || complain "never right: $question" "$dir/completions.jsonl"
done

ask() { # name ranks command arguments...
  # shellcheck disable=SC2086  # MPIRUN is a list of words
  timeout -k 5 60 $MPIRUN -np "$2" "$contender" "${@:3}" >"$work/$1" 2>"$work/$1.err" || complain "${*:3}" "$work/$1.err"
  runs=$((runs + 1))
}
ask eval 2 eval "$work/run.toml" --run-dir "$dir" --set eval.samples=2
grep -qE '^jsonl +1 +2 ' "$work/eval" || complain "eval" "$work/eval"
ask given 1 generate "$work/run.toml" --run-dir "$dir" --prompt "2+2?" --samples 2
[ "$(grep -c 'im_start' "$work/given")" -ge 2 ] || complain "generate" "$work/given"

# ---- out again: what the directory says is what the run says ----
"$contender" convert "$dir" "$work/out" --dtype f32 >"$work/log" 2>&1 || complain "convert" "$work/log"
[ -s "$work/out/tokenizer.json" ] && [ -s "$work/out/tokenizer_config.json" ] || complain "the tokenizer does not come along"
"$contender" inspect "$work/out" >"$work/log" 2>&1 && grep -q 'the weights are those of config.json' "$work/log" || complain "inspect" "$work/log"
for model in "$dir" "$work/out"; do
  ask "talk.$(basename "$model")" 1 generate --model "$model" --temperature 0 --max-new-tokens 32 "3+3?"
done
cmp -s "$work/talk.straight" "$work/talk.out" || complain "the export answers otherwise" "$work/talk.out"
grep -qF '\boxed{' "$work/talk.out" || complain "nothing was learnt" "$work/talk.out"

# ---- stopped in the rejection stage, whose samples are not drawn again; the rest on one rank ----
run stopped 2 3 "$work/run.toml" --fault sigusr1@64:0
run stopped 1 0 "$work/run.toml"
same stopped straight
finish "r1_hub: four stages on Hugging Face files and JSONL prompts, $runs runs: exported, asked, stopped and continued"
