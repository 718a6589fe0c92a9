#!/usr/bin/env bash
# Layouts are bit-equal: 8 SFT and 12 GRPO steps on every product of axes that fits 1, 2 and 4 ranks leave the same metrics, tokens,
# weights and held-out accuracy as one rank, and so do settings that change speed or memory only. The sampler's log-probs
# equal those of an independent forward at every step.
cd "$(dirname "$0")/../.." || exit
. tests/e2e/lib/runs.sh

layout() { # name ranks settings...: must equal the run on one rank of the same family
  local name=$1 ranks=$2 settings=() s
  shift 2
  for s in "$@"; do settings+=(--set "$s"); done
  run "$name" "$ranks" 0 "$work/$family.toml" "${settings[@]}" || return
  [ "$(summary_of "$name" max_abs_logp_diff)" = 0.0 ] || complain "$name: max_abs_logp_diff is $(summary_of "$name" max_abs_logp_diff)"
  [ "$name" = "$family" ] || same "$name" "$family"
}

family=deepseek_v3
write_config "$work/deepseek_v3.toml"
layout deepseek_v3 1
[ "$(wc -l <"$work/deepseek_v3/metrics.jsonl")" -eq 20 ] || complain "not 20 steps"
rewards=$(steps_of "$work/deepseek_v3/metrics.jsonl" | grep -o '"reward":[^,]*' | sort -u | wc -l)
[ "$rewards" -ge 10 ] || complain "rewards hardly vary: nothing is shown about RL"
layout dp2 2
layout tp2 2 mesh.tp=2
layout dp2_ep2 2 mesh.ep=2
layout tp2_ep2 2 mesh.tp=2 mesh.ep=2
layout dp2_tp2_ep2 4 mesh.tp=2 mesh.ep=2
layout dp4_ep2 4 mesh.ep=2
layout tp4_ep4 4 mesh.tp=4 mesh.ep=4
layout one_by_one 1 rollout.max_sequences=1 mesh.moe_chunks=1
layout small_cache 2 mesh.ep=2 rollout.max_sequences=8 rollout.kv_pages=12 rollout.max_tokens_per_step=24 mesh.moe_chunks=4 train.recompute=full

family=gqa
write_config "$work/gqa.toml"
sed -i -E '/lora_rank|_head_dim|expert|first_k|moe_|nextn/d; s/^\[model\]/&\nfamily = "gqa"\nhead_dim = 8\nnum_key_value_heads = 2\nqk_norm = true\ntie_word_embeddings = true/' "$work/gqa.toml"
sed -i 's/^steps = 8$/steps = 4/; s/^steps = 12$/steps = 6/' "$work/gqa.toml"
layout gqa 1
layout gqa_dp2 2 train.recompute=selective
layout gqa_tp2 2 mesh.tp=2
layout gqa_dp2_tp2 4 mesh.tp=2

# FP8: what tensor parallelism cuts is whole blocks of 128; other shapes are refused.
family=fp8
write_config "$work/fp8.toml"
sed -i -E 's/^(v_head_dim|qk_nope_head_dim|qk_rope_head_dim|intermediate_size) .*//; s/^\[model\]/&\nv_head_dim = 64\nqk_nope_head_dim = 48\nqk_rope_head_dim = 16\nintermediate_size = 256/' "$work/fp8.toml"
sed -i 's/^steps = 8$/steps = 3/; s/^steps = 12$/steps = 3/; s/^\[train\]/&\nprecision = "fp8"/' "$work/fp8.toml"
layout fp8 1
layout fp8_dp2 2 train.recompute=selective
layout fp8_tp2_ep2 2 mesh.tp=2 mesh.ep=2
layout fp8_dp2_tp2_ep4 4 mesh.tp=2 mesh.ep=4 mesh.moe_chunks=4
run fp8_cut 2 10 "$work/fp8.toml" --set mesh.tp=2 --set model.intermediate_size=192
says fp8_cut 'mesh.tp = 2: layers.0.ffn.gate_up has 192 rows or columns for each rank, and blocks of 128'

finish "layouts: $runs runs of two model families, and in FP8, on 1, 2 and 4 ranks, the same bits"
