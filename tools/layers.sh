#!/usr/bin/env bash
# Includes run one way. The table says which folders each folder may include besides itself; every line that
# breaks it is printed as file:line. Folders of csrc/ are named without csrc/. tests, bench and tools may include
# anything, and nothing includes them.
set -euo pipefail
cd "$(dirname "$0")/.."

table='
base:
device:     base
ops:        base device
cpu:        base device ops
cuda:       base device ops
mpi:        base device
model:      base device ops mpi
data:       base
reward:     base data
report:     base
rollout:    base device ops mpi model data reward
checkpoint: base device ops mpi model
hub:        base device ops mpi model data checkpoint
plan:       base device ops mpi model rollout checkpoint
grpo:       base device ops mpi model data reward report rollout checkpoint hub plan
cli:        base device ops mpi model data reward report rollout checkpoint hub plan grpo cpu cuda
'

roots=()
for d in csrc mpi cuda; do [ -d "$d" ] && roots+=("$d"); done
[ ${#roots[@]} -gt 0 ] || exit 0

find "${roots[@]}" \( -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) -print0 | sort -z |
  TABLE=$table xargs -0 -r awk '
    function folder_of(path,  parts) {
      sub(/^csrc\//, "", path)
      return split(path, parts, "/") > 1 ? parts[1] : ""
    }
    function bad(why) { printf "%s:%d: %s\n", FILENAME, FNR, why; violations++ }
    BEGIN {
      rows = split(ENVIRON["TABLE"], row, "\n")
      for (i = 1; i <= rows; i++) {
        n = split(row[i], word, /:? +|:$/)
        if (word[1] == "") continue
        known[word[1]] = 1
        list[word[1]] = ""
        for (j = 2; j <= n; j++) if (word[j] != "") {
          allowed[word[1], word[j]] = 1
          list[word[1]] = list[word[1]] " " word[j]
        }
      }
    }
    FNR == 1 {
      here = folder_of(FILENAME)
      if (!(here in known)) bad("folder \"" here "\" is not in the table of tools/layers.sh")
    }
    /^[ \t]*#[ \t]*include[ \t]*["<]/ && (here in known) {
      path = $0
      sub(/^[^"<]*["<]/, "", path)
      sub(/[">].*/, "", path)
      if (path ~ /(^|\/)\.\.\//) { bad("include \"" path "\": write it from the root, without .."); next }
      there = folder_of(path)
      if (there ~ /^(tests|bench|tools)$/) { bad(here " includes \"" path "\": nothing includes " there); next }
      if (!(there in known) || there == here || (here, there) in allowed) next
      bad(here " includes \"" path "\", but may include only:" list[here])
    }
    END { exit violations > 0 }
  '
