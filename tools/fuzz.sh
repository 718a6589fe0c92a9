#!/usr/bin/env bash
# tools/fuzz.sh BUILD_DIR SECONDS [CORPUS_DIR]: every libFuzzer target of BUILD_DIR/fuzz for so long, as many at once as there are
# cores, from the seeds in tests/fuzz/corpus; what they find of interest is kept in CORPUS_DIR, where given, and used again. Prints one
# row per target; the input and the words of a finding stay in BUILD_DIR/fuzz, and the status is 1.
set -uo pipefail
cd "$(dirname "$0")/.."
export fuzz=$1/fuzz seconds=$2 kept=${3:-}

run_one() { # name
  local name=$1 log=$fuzz/$1.log corpus dict=() status executed coverage
  corpus=${kept:+$kept/$name}
  corpus=${corpus:-$(mktemp -d)}
  mkdir -p "$corpus" "tests/fuzz/corpus/$name"
  [ ! -e "tests/fuzz/$name.dict" ] || dict=(-dict="tests/fuzz/$name.dict")
  rm -f "$fuzz/$name".*-*
  # Without a corpus of its own a run is the same one every time.
  "$fuzz/${name}_fuzz" "${dict[@]}" -max_len=16384 -timeout=120 -rss_limit_mb=2048 -max_total_time="$seconds" -print_final_stats=1 \
    -seed="$([ -n "$kept" ] && echo 0 || echo 1)" -artifact_prefix="$fuzz/$name." "$corpus" "tests/fuzz/corpus/$name" >"$log" 2>&1
  status=$?
  [ -n "$kept" ] || rm -rf "$corpus"
  executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  coverage=$(grep -oE 'cov: [0-9]+' "$log" | tail -n 1 | cut -c6-)
  printf '| %-16s | %7d | %12s | %9s | %s |\n' "$name" "$seconds" "${executed:--}" "${coverage:--}" \
    "$([ $status -eq 0 ] && echo none || echo "status $status: $log")"
  return $status
}
export -f run_one

printf '| %-16s | %7s | %12s | %9s | %s |\n' target seconds executions coverage findings
echo '|---|---|---|---|---|'
for t in "$fuzz"/*_fuzz; do basename "${t%_fuzz}"; done | xargs -P "$(nproc)" -I{} bash -c 'run_one {}' && exit 0
for log in "$fuzz"/*.log; do
  grep -q '^stat::number_of_executed_units' "$log" && ! grep -q 'ERROR: ' "$log" || tail -n 40 "$log"
done
exit 1
