#!/usr/bin/env bash
# The table of faults on whole runs of two ranks: whatever happens, the job ends with the right code within its bound, nothing stays behind,
# the last checkpoint is whole, and the restarted run ends with the bits of an undisturbed one.
cd "$(dirname "$0")/../.." || exit
. tests/e2e/lib/runs.sh

config=$work/run.toml
write_config "$config"
sed -i 's/^\[eval\]$/[checkpoint]\nevery = 4\n&/; s/^watchdog_seconds = .*/watchdog_seconds = 3.0/' "$config"
run calm 2 0 "$config"

since_last_step() { # name: ms from the last line of metrics to now
  local written
  written=$(stat -c %.3Y "$work/$1/metrics.jsonl")
  echo $(($(now_ms) - ${written/./}))
}

gone() { # name: no process of the run is left
  local try
  for try in 1 2 3 4 5 6 7 8 9 10; do
    pgrep -f -- "--run-dir $work/$1( |\$)" >/dev/null || return 0
    sleep 0.1
  done
  complain "$1: processes are left after $try tries: $(pgrep -af -- "--run-dir $work/$1( |\$)")"
}

dies() { # name exit_code bound_ms arguments...: a run that fails, and in time
  local name=$1 code=$2 bound=$3 ms
  shift 3
  run "$name" 2 "$code" "$config" "$@"
  ms=$(since_last_step "$name")
  [ "$ms" -le "$bound" ] || complain "$name: ended $ms ms after its last step"
  gone "$name"
}

restarts() { # name [checkpoints]: goes on from one of these, a|b|c, and ends like the undisturbed run
  run "$1" 2 0 "$config"
  [ $# -eq 1 ] || says "$1" "going on from .*/($2): step [0-9]+, written by 2 ranks"
  same "$1" calm
}

# Rows 1 and 2: a rank is killed, crashes or leaves; before the first checkpoint and later.
dies kill 137 5000 --fault kill@2:1
restarts kill
dies segv 139 5000 --fault segv@10:0
restarts segv step_8-2
dies exit 1 5000 --fault exit@18:1
restarts exit step_16

# Lost memory, as the kernel reports it: a code of its own, so that a scheduler can leave the machine out.
dies memory 16 5000 --fault memory_error@10:1
says memory '^rank 1 \[.*, step 10, [a-z]+\]: the machine reports an uncorrectable memory error at 0x'
restarts memory step_8-2

# Row 3: a rank stops, or leaves out a collective. The others say who, where and when, and leave the last collectives in a file.
waited='waited [345]\.[0-9] s'
collective='in "[a-z_.]+" \(collective [0-9]+, step 10, phase [a-z_]+\)'
dies hang 18 9000 --fault hang@10:1
says hang "^rank 0 $waited for rank 1 $collective: peer lost or hung; last collectives in .*/hang/watchdog.0.txt$"
grep -q 'in flight' "$work/hang/watchdog.0.txt" || complain "hang: no collective in flight in the dump" "$work/hang/watchdog.0.txt"
dies skip 18 9000 --fault skip@10:1
says skip "^rank [01] $waited for rank [01] $collective"
restarts skip step_8-2

# Row 5: SIGTERM to mpirun gives a second of grace, if that. (Row 4, SIGUSR1: resume.sh.) Exchanges are slowed down so that it comes midway.
# shellcheck disable=SC2086
$MPIRUN -np 2 "$contender" demo "$config" --run-dir "$work/term" --fault 'delay@0:*:60ms' >"$work/term.log" 2>&1 &
launcher=$!
until [ "$(wc -l 2>/dev/null <"$work/term/metrics.jsonl")" -ge 6 ] 2>/dev/null; do sleep 0.02; done
kill -TERM $launcher
wait $launcher && complain "SIGTERM: the job succeeded" "$work/term.log"
says term '^contender: SIGTERM \(mpirun sends it too when a rank is gone\): the last checkpoint, .*/term/step_(4|8|8-2|12), is whole; the same command goes on from it$'
[ "$(grep -c SIGTERM "$work/term.log")" -eq 1 ] || complain "SIGTERM: more than one rank speaks" "$work/term.log"
gone term
run unsaved 2 143 "$config" --fault sigterm@2:0
says unsaved '^contender: SIGTERM .*: there is no checkpoint yet; the same command starts from the beginning$'
restarts term 'step_4|step_8|step_8-2|step_12'

# Row 6: storage fails while a checkpoint is written: the message names path and bytes, training goes on, the third failure in a row ends it.
faults=(--set checkpoint.every=2 --fault disk_full@1:0 --fault eio@3:1 --fault fsync@5:0)
dies storage 20 5000 "${faults[@]}"
says storage 'checkpoint of step 2 failed, training goes on \(1 of 3\): .*rank 0: .*/model-00000.safetensors: write failed: No space left on device \(0 of [0-9]+ bytes written, [0-9]+ bytes free\)'
says storage 'checkpoint of step 4 failed, training goes on \(2 of 3\): .*rank 1: .*/model-00001.safetensors: write failed: Input/output error'
says storage '^rank 0: checkpoint of step 6: .*fsync failed'
run survivor 2 0 "$config" --set checkpoint.max_failures=4 "${faults[@]}"
same survivor calm
run last_save 2 20 "$config" --set checkpoint.every=0 --fault fsync@18:1
says last_save 'the run is complete, but its last checkpoint could not be written'

# Row 7: killed while it saves (every point: tests/checkpoint). The old or the new checkpoint, never a mix.
for point in 2:0 7:0 8:0 12:0 2:1; do
  dies "crash_$point" 137 9000 --fault "crash_write@9:${point#*:}:${point%:*}"
  restarts "crash_$point" 'step_8-2|step_12'
  [ -z "$(find "$work/crash_$point" -name '*.tmp-*')" ] || complain "crash_$point: left-over files"
done

# Rows 8 and 9: a damaged or foreign newest checkpoint is refused loudly, an older one is used; without any the run does not begin.
flip() { # file: one bit near its end changes
  local at=$(($(stat -c %s "$1") - 100)) byte
  byte=$(od -An -tu1 -j "$at" -N 1 "$1")
  printf '%b' "\\x$(printf %x $((byte ^ 1)))" | dd of="$1" bs=1 seek="$at" conv=notrunc status=none
}
dies damage 137 5000 --fault kill@15:1
cp -r "$work/damage" "$work/swapped"
cp -r "$work/damage" "$work/lost"
flip "$work/damage/step_12/trainer-00001.safetensors"
restarts damage step_8-2
says damage 'CHECKPOINT REFUSED, going back to .*/step_8-2'
says damage '  step_12: trainer-00001.safetensors: checksum of bytes 0 to [0-9]+ does not match'
cp "$work/swapped/step_8-2/trainer-00000.safetensors" "$work/swapped/step_12/"
restarts swapped step_8-2
says swapped 'trainer-00000.safetensors: shard of step 8, the manifest says 12'
for file in "$work"/lost/step_*/trainer-00000.safetensors; do truncate -s -1 "$file"; done
run lost 2 11 "$config"
says lost '^rank 0: .*/lost: no usable checkpoint:'
says lost 'step_8-2: .*/trainer-00000.safetensors: the tensors end at byte [0-9]+ of [0-9]+'

# Row 12: NaN in a gradient or a reward on one rank: both ranks skip the update, the batch is kept; five in a row end the run.
run nan 2 0 "$config" --fault nan@3:0 --fault nan@10:1 --fault nan_reward@14:1
run nan_alone 1 0 "$config" --fault nan@3:0 --fault nan@10:0 --fault nan_reward@14:0
for name in nan nan_alone; do
  skipped=$(grep -n '"skipped":1' "$work/$name/metrics.jsonl" | cut -d: -f1 | tr '\n' ' ')
  [ "$skipped" = "4 11 15 " ] || complain "$name: skipped steps: $skipped"
  says $name 'step 10: update skipped: non-finite values \(gradient norm nan, loss [0-9.e+-]+, KL [0-9.e+-]+\); 1 in a row; its batch is in bad_batch_10.jsonl'
  says $name 'step 14: update skipped: non-finite values \(gradient norm nan, loss nan, KL '
  [ "$(wc -l <"$work/$name/bad_batch_3.jsonl")" -eq 8 ] || complain "$name: the dump of an SFT batch has not 8 lines"
  [ "$(grep -c '"prompt":"<user>.*"completion":".*"reward":' "$work/$name/bad_batch_14.jsonl")" -eq 16 ] || complain "$name: the dump of an RL batch" "$work/$name/bad_batch_14.jsonl"
  [ "$(grep -c '"reward":null' "$work/$name/bad_batch_14.jsonl")" -eq 1 ] || complain "$name: the NaN reward is not in the dump"
done
[ "$(summary_of nan weights_hash)" != "$(summary_of calm weights_hash)" ] || complain "skipped updates left no trace in the weights"
run nan_five 2 17 "$config" --fault nan@9:0 --fault nan@10:1 --fault nan@11:0 --fault nan@12:1 --fault nan@13:0
says nan_five '^rank 0: 5 updates in a row skipped \(train.max_skipped\)'

# Row 13: a spike of the gradient (of loss and KL: tests/grpo/spike_test.cpp). What it is measured by survives a resume.
run spike 2 0 "$config" --fault spike@19:1
says spike 'step 19: update skipped: spike of the gradient norm \(gradient norm [0-9.e+]+, loss [0-9.e+-]+, KL [0-9.e+-]+\); 1 in a row'
[ "$(grep -c '"skipped":1' "$work/spike/metrics.jsonl")" -eq 1 ] || complain "spike: not one skipped update"
run spike_resumed 2 3 "$config" --fault sigusr1@18:0
run spike_resumed 2 0 "$config" --fault spike@19:1
same spike_resumed spike
remembered() { grep -oE '(norms|losses|kls)\\?":\[[^]]+\]' "$work/$1/$(cat "$work/$1/latest")/MANIFEST.json"; }
[ "$(remembered spike | wc -l)" -eq 3 ] && [ "$(remembered spike)" = "$(remembered spike_resumed)" ] ||
  complain "spike_resumed: other norms, losses or KLs are remembered than in the straight run"

finish "faults: $runs runs; every job ended with its code and in time, every restart with the bits of the undisturbed run"
