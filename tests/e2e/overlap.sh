#!/usr/bin/env bash
# Communication runs while other tokens are computed, with 2 ms injected into every exchange on dp2 x ep2. With one chunk nothing is
# left to compute when a layer's combine leaves: every millisecond of it is exposed. Two chunks hide at least 70% of what one exposes, and of all
# that is injected: the first half of the shared experts runs beside the first dispatch, the second half beside the last combine, the experts of a chunk
# beside the exchanges of the other. Exposed is the delay that is left when computation has to stop and wait. The bits do not change.
cd "$(dirname "$0")/../.." || exit
. tests/e2e/lib/runs.sh

cat >"$work/run.toml" <<'END'
[model]
hidden_size = 256
num_hidden_layers = 4
num_attention_heads = 4
intermediate_size = 512
max_position_embeddings = 64
kv_lora_rank = 64
qk_nope_head_dim = 32
qk_rope_head_dim = 16
v_head_dim = 32
first_k_dense_replace = 1
n_routed_experts = 8
n_shared_experts = 4
num_experts_per_tok = 2
moe_intermediate_size = 512
[mesh]
ep = 2
[train]
token_budget = 256
[task]
max_prompt_tokens = 24
eval_problems = 16
[sft]
steps = 7
batch_size = 16
[rl]
max_new_tokens = 24
[eval]
problems = 16
[metrics]
tensorboard = false
trace = true
END

train() { # name chunks arguments...
  local name=$1 chunks=$2
  shift 2
  runs=$((runs + 1))
  # shellcheck disable=SC2086  # MPIRUN is a list of words
  timeout -k 5 120 $MPIRUN -np 2 "$contender" train "$work/run.toml" --run-dir "$work/$name" --set mesh.moe_chunks="$chunks" "$@" >"$work/$name.log" 2>&1 ||
    complain "$name: exit code $?" "$work/$name.log"
}
median() { # name key: over the steps, in ms
  grep -o "\"$2\":[^,}]*" "$work/$1/metrics.jsonl" | cut -d: -f2 | sort -g | awk '{ v[NR] = $1 } END { printf "%.2f", 1000 * v[int((NR + 1) / 2)] }'
}

train calm 2
train one 1 --fault 'delay@0:*:2ms'
train two 2 --fault 'delay@0:*:2ms'
for name in one two; do
  cmp -s <(steps_of "$work/$name/metrics.jsonl") <(steps_of "$work/calm/metrics.jsonl") || complain "$name: the delay changed the numbers"
done
injected=$(median two delay_injected)
exposed=$(median two delay_exposed)
exposed_by_one=$(median one delay_exposed)
combines=6 # ms a step: one pack, three layers of experts
percent() { awk "BEGIN { printf \"%.0f\", 100 * (1 - $1 / $2) }"; }
hidden=$(percent "$exposed" "$injected")
of_one=$(percent "$exposed" "$exposed_by_one")
awk "BEGIN { exit !($injected >= 40 && $exposed_by_one >= 0.8 * $combines) }" ||
  complain "injected $injected ms; one chunk exposes $exposed_by_one ms of the $combines ms that its combines take: nothing is shown"
[ "$hidden" -ge 70 ] || complain "two chunks hide $hidden% of the delay: $exposed of $injected ms are exposed"
[ "$of_one" -ge 70 ] || complain "two chunks hide $of_one% of what one exposes: $exposed ms, with one chunk $exposed_by_one ms"
grep -q '"name":"comm 2"' "$work/two/trace.0.json" || complain "the trace shows no two exchanges in flight"

finish "overlap: of the $exposed_by_one ms a step that one chunk exposes two hide $of_one%, and $hidden% of the $injected ms injected"
