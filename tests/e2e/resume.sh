#!/usr/bin/env bash
# k steps, a stop, and the rest equal the straight run bit for bit: metrics, completions, weights, held-out accuracy. Stopped in SFT, in RL
# with a reference and two minibatches per rollout, with rollouts in flight, between stages, by a signal to mpirun, and continued on
# other layouts (rows 4, 10 and 11 of the table of faults). What cannot be continued says so, with the right exit code.
cd "$(dirname "$0")/../.." || exit
. tests/e2e/lib/runs.sh

stop() { # name ranks step config arguments...: stops before global step `step` + 1
  local name=$1 ranks=$2 step=$3 config=$4
  shift 4
  run "$name" "$ranks" 3 "$config" --fault "sigusr1@$step:0" "$@"
  says "$name" "^contender: stopped on request after step"
}

config=$work/sync.toml
write_config "$config"
sed -i 's/^\[rl\]$/&\nsteps_per_rollout = 2/' "$config"
run sync 1 0 "$config"

stop sft_dp2 2 3 "$config"
run sft_dp2 2 0 "$config" --resume
same sft_dp2 sync

stop rl_dp2_to_tp2 2 12 "$config"
run rl_dp2_to_tp2 2 0 "$config" --set mesh.tp=2
says rl_dp2_to_tp2 "going on from .*/step_14: step 14, written by 2 ranks \(tp 1, dp 2, ep 1\)"
same rl_dp2_to_tp2 sync

stop one_to_four 1 14 "$config"
stop one_to_four 4 16 "$config" --set mesh.tp=2 --set mesh.ep=2
run one_to_four 2 0 "$config" --set mesh.ep=2
same one_to_four sync

stop last_of_sft 2 7 "$config"
stop last_of_sft 2 18 "$config" --set mesh.tp=2
run last_of_sft 1 0 "$config"
same last_of_sft sync

# What a run leaves as its config holds the command line too, and goes on with the run.
stop from_its_config 2 12 "$config" --set mesh.tp=2
run from_its_config 2 0 "$work/from_its_config/config.toml"
same from_its_config sync
grep -q '^tp = 2$' "$work/from_its_config/config.toml" || complain "from_its_config: config.toml has no --set" "$work/from_its_config/config.toml"

# Regular checkpoints, a stop whenever it comes, by signal to the launcher: one step, one save, exit code 3.
signalled=$work/signalled.toml
sed 's/^steps = 8$/steps = 2000/' "$config" >"$signalled"
# shellcheck disable=SC2086
$MPIRUN -np 2 "$contender" demo "$signalled" --run-dir "$work/signalled" >"$work/signalled.log" 2>&1 &
launcher=$!
until [ "$(wc -l 2>/dev/null <"$work/signalled/metrics.jsonl")" -ge 3 ] 2>/dev/null; do sleep 0.05; done
begin=$(now_ms)
kill -USR1 $launcher
wait $launcher
got=$?
[ $got -eq 3 ] || complain "SIGUSR1 to mpirun: exit code $got" "$work/signalled.log"
[ $(($(now_ms) - begin)) -le 5000 ] || complain "SIGUSR1 to mpirun: $(($(now_ms) - begin)) ms"
saved=$(cat "$work/signalled/latest")
[ "$saved" = "step_$(wc -l <"$work/signalled/metrics.jsonl")" ] || complain "SIGUSR1 to mpirun: latest is $saved" "$work/signalled/metrics.jsonl" 1

# Rollouts in flight: later groups have begun under older weights when the run stops.
config=$work/stale.toml
write_config "$config"
sed -i 's/^\[rl\]$/&\nmax_staleness = 1\nkl_beta = 0.0/; s/^\[metrics\]$/[rollout]\nmax_sequences = 8\n&/' "$config"
run stale 2 0 "$config"
grep -qE '"staleness":[1-9]' "$work/stale/metrics.jsonl" || complain "max_staleness = 1: no sample was stale" "$work/stale/metrics.jsonl" 2
for step in 9 13; do
  stop "stale_$step" 2 $step "$config"
  run "stale_$step" 2 0 "$config"
  same "stale_$step" stale
done

# On another layout the sequences in flight are dealt out anew: other tokens, but the run goes on.
stop stale_moves 2 11 "$config"
run stale_moves 1 0 "$config"

# Two RL stages, evaluations on the way; stopped in the second.
config=$work/stages.toml
write_config "$config"
sed -i 's/^\[eval\]$/&\nevery = 4/' "$config"
cat >>"$config" <<'END'
[[stage]]
kind = "sft"
name = "cold_start"
[stage.sft]
steps = 6
eval_every = 2
[[stage]]
kind = "rl"
name = "first"
[stage.rl]
steps = 4
max_staleness = 1
[[stage]]
kind = "rl"
name = "second"
[stage.rl]
steps = 6
algorithm = "dapo"
dynamic_sampling = true
END
run stages 2 0 "$config"
for step in 3 7 9 12; do
  stop "stages_$step" 2 $step "$config"
  run "stages_$step" 2 0 "$config"
  same "stages_$step" stages
done

# A finished run says so, and stays as it is.
before=$(cd "$work/sync" && find . -type f ! -name report.html ! -name config.toml ! -name config.fingerprint ! -name 'events.*' -exec md5sum {} + | sort)
run sync 2 0 "$work/sync.toml"
says sync '/sync: this run is finished; eval and generate use its weights, another --run-dir begins another run, --no-resume starts this one over'
says sync '^report: .*/sync/report.html$'
[ "$before" = "$(cd "$work/sync" && find . -type f ! -name report.html ! -name config.toml ! -name config.fingerprint ! -name 'events.*' -exec md5sum {} + | sort)" ] ||
  complain "a finished run that was started again has other files"

# What cannot be continued. Layouts that the run cannot have: 12, naming the one that wrote the checkpoint; without a run to go on from: 10.
run sync 3 12 "$work/sync.toml"
says sync "^.*/sync/step_20: written by 1 rank \(tp 1, dp 1, ep 1\); this job, on 3, cannot go on from it:"
says sync '^.*/sync.toml:[0-9]+: mesh.data_slots \(default\): the job has 3 ranks; their number must be a power of two'
run sync 2 12 "$work/sync.toml" --set mesh.tp=8
says sync '^--set: mesh.tp: 8 does not divide 4'
run nothing 3 10 "$work/sync.toml"
before=$(ls "$work/sync")
run sync 2 10 "$work/stale.toml"
says sync "^rank 0: run.dir: \".*/sync\" holds a run with another configuration \(.*steps_per_rollout = 2 there, .*steps_per_rollout = 1 here\)"
run sync 2 10 "$work/sync.toml" --set model.hidden_size=64
says sync "model.hidden_size = 32 there, model.hidden_size = 64 here"
[ "$before" = "$(ls "$work/sync")" ] || complain "a refused run changed the files of another"
run nothing 2 11 "$work/sync.toml" --resume
says nothing '^rank 0: run.dir: no checkpoint in ".*/nothing" to go on from'
[ ! -e "$work/nothing" ] || complain "--resume with nothing to continue made a directory"

finish "resume: $runs runs, stopped and continued ones equal to the straight ones"
