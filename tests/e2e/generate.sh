#!/usr/bin/env bash
# Talking to a model: from an argument, a pipe, line by line; the recorded greedy tokens of transformers on 1, 2 and 4 ranks;
# Ctrl-C; what cannot be used is one line and its exit code.
cd "$(dirname "$0")/../.." || exit
# shellcheck source=tests/e2e/lib/runs.sh
source tests/e2e/lib/runs.sh
models=tests/fixtures/hf

talk() { # ranks code arguments...: stdin is the caller's; answer in $work/out, all else in $work/err
  local ranks=$1 code=$2 got launcher=
  shift 2
  [ "$ranks" -eq 0 ] || launcher="$MPIRUN -np $ranks"
  runs=$((runs + 1))
  # shellcheck disable=SC2086  # MPIRUN is a list of words
  timeout -k 5 60 $launcher "$contender" generate "$@" >"$work/out" 2>"$work/err"
  got=$?
  [ $got -eq "$code" ] || complain "generate $*: exit $got, not $code" "$work/err"
}
refused() { # code pattern arguments...: one line
  local code=$1 pattern=$2
  shift 2
  talk 0 "$code" "$@" </dev/null
  grep -qE -- "$pattern" "$work/err" || complain "generate $*: no line matches: $pattern" "$work/err"
  [ "$(grep -vc '^device\|parameters on' "$work/err")" -eq 1 ] || complain "generate $*: not one line" "$work/err"
  [ ! -s "$work/out" ] || complain "generate $*: something on stdout" "$work/out"
}
ids_of() { # model key count: numbers of expected.json
  sed -nE "s/.*\"$2\": \[([^]]*)\].*/\1/p" "$models/$1/expected.json" | tr -d ' ' | cut -d, -f1-"$3"
}

# Greedy tokens are those of transformers.
for model in "$models"/*; do
  model=$(basename "$model")
  ranks=0
  [ "$model" = moonlight ] && ranks=4
  [ "$model" = qwen2 ] && ranks=2
  talk $ranks 0 --model "$models/$model" --temperature 0 --max-new-tokens 64 --ids "$(ids_of "$model" tokens 16)" </dev/null
  [ "$(ids_of "$model" greedy 64 | tr ',' ' ')" = "$(cat "$work/out")" ] || complain "$model: greedy tokens differ" "$work/out"
  grep -qE '^64 tokens, cut at the limit; prompt of 16 at [0-9]+ tokens/s, first token after [0-9.]+ s, then [0-9.]+ tokens/s; perplexity [0-9.]+$' \
    "$work/err" || complain "$model: no summary" "$work/err"
done

# The same answer from an argument, a pipe and a conversation's first line, on any ranks; another one from another seed.
ask=(--model $models/qwen3 --max-new-tokens 20 --temperature 1.5)
talk 0 0 "${ask[@]}" "37+85=" </dev/null
cp "$work/out" "$work/first"
[ -s "$work/first" ] || complain "no answer"
talk 0 0 "${ask[@]}" < <(printf '37+85=')
cmp -s "$work/out" "$work/first" || complain "a pipe is answered otherwise" "$work/out"
talk 2 0 "${ask[@]}" < <(printf '37+85=')
cmp -s "$work/out" "$work/first" || complain "two ranks answer otherwise" "$work/out"
talk 2 0 "${ask[@]}" --set mesh.tp=1 < <(printf '37+85=')
cmp -s "$work/out" "$work/first" || complain "one of two ranks answers otherwise" "$work/out"
talk 2 0 --model $models/moonlight --set mesh.tp=1 --temperature 0 --max-new-tokens 64 --ids "$(ids_of moonlight tokens 16)" </dev/null
[ "$(ids_of moonlight greedy 64 | tr ',' ' ')" = "$(cat "$work/out")" ] || complain "experts on two ranks, one of which answers" "$work/out"
talk 0 0 "${ask[@]}" --chat < <(printf '37+85=\n\n1+1=\n')
[ "$(head -c "$(wc -c <"$work/first")" "$work/out")" = "$(cat "$work/first")" ] || complain "a conversation begins otherwise" "$work/out"
[ "$(grep -c 'perplexity' "$work/err")" -eq 2 ] || complain "not two answers" "$work/err"
cp "$work/out" "$work/two"
talk 2 0 "${ask[@]}" --chat < <(printf '37+85=\n1+1=')
cmp -s "$work/out" "$work/two" || complain "two ranks go on otherwise" "$work/out"
talk 0 0 "${ask[@]}" --seed 9 "37+85=" </dev/null
cmp -s "$work/out" "$work/first" && complain "the seed changes nothing"
talk 0 0 "${ask[@]}" < <(head -c 60 /bin/true)
talk 0 0 --model $models/qwen3 --max-new-tokens 20 --temperature 50 --system 'be wild' --top-k 200 --min-p 0.001 "x" </dev/null
! LC_ALL=C grep -qaP '[\x00-\x08\x0b-\x1f\x7f]' "$work/out" || complain "control characters come out"
iconv -f utf-8 -t utf-8 "$work/out" >/dev/null 2>&1 || complain "bytes that are not UTF-8 come out"

# What it says of the context; a question that is too long ends a conversation only when it is the only one.
grep -q 'context 128;' "$work/err" || complain "the context is not said" "$work/err"
talk 0 0 "${ask[@]}" --context 64 "x" </dev/null
grep -q 'context 64;' "$work/err" || complain "--context is not taken" "$work/err"
talk 0 0 "${ask[@]}" --chat < <(head -c 200 /dev/zero | tr '\0' 9; printf '\n1+1=\n')
grep -q '^warning: the question has 20[0-9] tokens; with 20 for the answer' "$work/err" || complain "a long question is not refused" "$work/err"
[ "$(grep -c 'perplexity' "$work/err")" -eq 1 ] || complain "the conversation does not go on" "$work/err"

# A run and its checkpoint.
write_config "$work/run.toml"
run trained 2 0 "$work/run.toml" --set mesh.ep=2 --set rl.steps=1
talk 0 0 --model "$work/trained" "1+1=" --max-new-tokens 8 </dev/null
cp "$work/out" "$work/first"
talk 2 0 --model "$work/trained/$(cat "$work/trained/latest")" "1+1=" --max-new-tokens 8 </dev/null
cmp -s "$work/out" "$work/first" || complain "a checkpoint answers otherwise than its run" "$work/out"

# Ctrl-C: the answer ends, the program does not. Exchanges are slowed down, so that there is something to interrupt.
mkfifo "$work/questions"
# shellcheck disable=SC2086  # MPIRUN is a list of words
$MPIRUN -np 2 "$contender" generate --model $models/qwen2 --chat --fault 'delay@0:*:20ms' <"$work/questions" >"$work/out" 2>"$work/err" &
job=$!
exec 7>"$work/questions"
echo 'a long story' >&7
for _ in $(seq 100); do [ -s "$work/out" ] && break || sleep 0.1; done
for pid in $(pgrep -P $job); do
  grep -qz 'OMPI_COMM_WORLD_RANK=0' "/proc/$pid/environ" && kill -INT "$pid"
done
echo 'and one more' >&7
exec 7>&-
wait $job
[ $? -eq 0 ] || complain "an interrupted conversation does not end well" "$work/err"
runs=$((runs + 1))
grep -q '^[0-9]* tokens, interrupted; ' "$work/err" || complain "an answer was not interrupted" "$work/err"
[ "$(grep -c 'perplexity' "$work/err")" -eq 2 ] || complain "after an interrupted answer there is no other" "$work/err"

refused 10 '^contender: --model: nowhere: no such file or directory$' --model nowhere x
refused 10 '^contender: --model: .*/model.safetensors: a file of a model; its directory is the model$' --model $models/qwen2/model.safetensors x
cp -r "$work/trained/$(cat "$work/trained/latest")" "$work/alone"
refused 10 '^contender: --model: .*/alone: a checkpoint without its run: there is no .*config.toml; contender convert makes a model of it$' --model "$work/alone" x
mkdir "$work/untrained" && cp "$work/trained/config.toml" "$work/untrained"
refused 11 '^contender: --model: no checkpoint in ".*/untrained"$' --model "$work/untrained" x
refused 10 '^contender: stdin: nothing was asked' --model $models/qwen2
refused 10 '^contender: the question has [0-9]+ tokens; with 32 for the answer it is beyond the context of 128' --model $models/qwen2 "$(printf '9%.0s' {1..300})"
refused 10 '^contender: --ids: 272 is not below the model.s vocabulary of 272' --model $models/qwen2 --ids 1,272
refused 10 '^contender: --context: 256 is more than the model.s 128' --model $models/qwen2 --context 256 x
refused 10 'excludes' --model $models/qwen2 --prompt x
refused 10 'requires --model' configs/tiny.toml --system x
refused 10 '--temperature' --model $models/qwen2 --temperature -1 x
refused 10 'mesh.tp: 3 does not divide' --model $models/qwen2 --set mesh.tp=3 x
CONTENDER_MEMORY_LIMIT=8000000 refused 19 '^contender: out of memory: a rank needs [0-9.]+ MiB for a context of 64 tokens, 6.9 MiB are free' --model $models/qwen3 x
cp -r $models/qwen3 "$work/cut" && truncate -s -1 "$work/cut/model.safetensors"
refused 10 'the tensors end at byte' --model "$work/cut" x
cp -r $models/qwen3 "$work/unread" && echo '{' >"$work/unread/config.json"
refused 10 '^contender: --model: .*/unread/config.json: ' --model "$work/unread" x
"$contender" generate --model $models/qwen2 x 2>"$work/err" >/dev/full
[ $? -eq 20 ] && grep -q 'stdout cannot be written: No space left' "$work/err" || complain "a full disk is not said" "$work/err"

finish "generate: $runs conversations; greedy tokens as recorded from 11 models"
