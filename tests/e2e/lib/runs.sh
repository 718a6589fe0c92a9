# shellcheck shell=bash
# What the scripts of tests/e2e share: small configurations, runs with an expected exit code, and the comparison of two runs.
# A script sources it, calls these functions, and ends with `finish "what was shown"`.
set -uo pipefail
contender=${CONTENDER:-build/release/contender}
work=$(mktemp -d "${WORK:-${TMPDIR:-/tmp}}/run.XXXXXX") # stays when something failed
MPIRUN=${MPIRUN:-mpirun --oversubscribe --quiet --bind-to none --mca pml ob1 --mca btl self,vader}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
sim=     # what runs the program: nothing, or the simulator of a GPU
status=0
runs=0

complain() { # what [file]: a failure, with the end of a log
  echo "FAILED: $1"
  [ $# -lt 2 ] || tail -n "${3:-12}" "$2" | cut -c1-400
  status=1
}

finish() { # what: the summary line and the end of the script
  [ $status -eq 0 ] && rm -rf "$work" || echo "files: $work"
  echo "$1"
  exit $status
}

now_ms() { echo $(($(date +%s%N) / 1000000)); }

# The smallest model with every mechanism: MLA with compressed queries, one dense and one expert layer, MTP; rewards that differ
# within a group although the policy has learnt nothing yet (language of the thought, length).
write_config() { # file
  cat >"$1" <<'END'
[model]
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 4
intermediate_size = 64
max_position_embeddings = 64
initializer_range = 0.1
q_lora_rank = 16
kv_lora_rank = 16
qk_nope_head_dim = 8
qk_rope_head_dim = 4
v_head_dim = 8
first_k_dense_replace = 1
n_routed_experts = 8
n_shared_experts = 1
num_experts_per_tok = 2
moe_intermediate_size = 16
num_nextn_predict_layers = 1
[train]
token_budget = 256
watchdog_seconds = 60.0
[task]
max_prompt_tokens = 24
eval_problems = 16
[sft]
steps = 8
batch_size = 8
lr = 3e-3
[rl]
steps = 12
prompts_per_step = 4
group_size = 4
max_new_tokens = 24
overlong_buffer = 24
lr = 3e-3
lr_min = 1e-3
verify_logp_every = 1
reference_replace_every = 5
[reward]
language_weight = 1.0
[eval]
problems = 8
[metrics]
tensorboard = false
END
}

# A Hugging Face directory of random weights under a tokenizer of 563 tokens with a chat template.
random_hub() { # directory keys_of_model...
  local dir=$1 base=$work/random
  shift
  mkdir -p "$base"
  cp tests/fixtures/tokenizer/smol/tokenizer.json "$base"
  cat >"$base/tokenizer_config.json" <<'END'
{"eos_token": "<|im_end|>", "chat_template":
  "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"}
END
  {
    printf '[model]\n' && printf '%s\n' "$@"
    printf '[tokenizer]\npath = "%s"\n[task]\ndifficulty = 1\nmax_prompt_tokens = 128\neval_problems = 4\n' "$base"
    printf '[sft]\nsteps = 1\nbatch_size = 2\nlr = 1e-30\nlr_min = 0.0\n[rl]\nsteps = 0\n[eval]\nproblems = 4\n'
  } >"$base/run.toml"
  if ! "$contender" train "$base/run.toml" --run-dir "$base/run" --set run.device=cpu >"$work/log" 2>&1 ||
    ! "$contender" convert "$base/run" "$dir" --dtype f32 >>"$work/log" 2>&1; then
    complain "no random model in $dir" "$work/log"
    finish "nothing to begin with"
  fi
  cmp -s "$base/tokenizer.json" "$dir/tokenizer.json" && [ -s "$dir/tokenizer_config.json" ] ||
    complain "the run's tokenizer does not come along" "$work/log"
}

run() { # name ranks exit_code config arguments...: `contender demo`, its files in $work/name, its output in $work/name.log
  local name=$1 ranks=$2 code=$3 config=$4 got
  shift 4
  runs=$((runs + 1))
  # shellcheck disable=SC2086  # MPIRUN and sim are lists of words
  timeout -k 5 120 $MPIRUN -np "$ranks" $sim "$contender" demo "$config" --run-dir "$work/$name" "$@" >>"$work/$name.log" 2>&1
  got=$?
  [ "$got" -eq "$code" ] || complain "$name, $ranks ranks, $*: exit code $got, not $code" "$work/$name.log"
  [ "$got" -eq "$code" ]
}

says() { # name pattern: some line of the run's output matches
  grep -qE -- "$2" "$work/$1.log" || complain "$1: no line matches: $2" "$work/$1.log"
}

steps_of() { # file of metrics: without times
  sed 's/,"seconds":{.*//' "$1"
}

summary_of() { # name key
  sed -nE "s/^ *\"$2\": \"?([^\",]*)\"?,?$/\1/p" "$work/$1/summary.json"
}

same() { # name reference: the same metrics (times aside), completions, held-out accuracy and weights, to the bit
  local a=$work/$1 b=$work/$2 key
  cmp -s <(steps_of "$a/metrics.jsonl") <(steps_of "$b/metrics.jsonl") ||
    complain "$1 and $2: metrics differ; first lines:" <(diff <(steps_of "$a/metrics.jsonl") <(steps_of "$b/metrics.jsonl") | head -n 4)
  cmp -s "$a/completions.jsonl" "$b/completions.jsonl" || complain "$1 and $2: completions differ"
  for key in weights_hash accuracy_before accuracy_after accuracy_after_greedy tokens_generated tokens_trained; do
    [ -n "$(summary_of "$1" $key)" ] && [ "$(summary_of "$1" $key)" = "$(summary_of "$2" $key)" ] ||
      complain "$1 and $2: $key $(summary_of "$1" $key) and $(summary_of "$2" $key)"
  done
}
