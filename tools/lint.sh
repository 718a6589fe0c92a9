#!/usr/bin/env bash
# Include arrows (tools/layers.sh), size limits, mirrored tests. Errors end with status 1; warnings do not.
set -uo pipefail
cd "$(dirname "$0")/.."
max_file=800
max_function=300
status=0

tools/layers.sh || status=1

roots=()
for d in csrc mpi cuda tests bench tools; do [ -d "$d" ] && roots+=("$d"); done
if [ ${#roots[@]} -gt 0 ]; then
  # In formatted code a body is indented further than its function, so a closing brace in column 0 (functions) or 2
  # (members) belongs to the last line that began with a name in that column.
  find "${roots[@]}" \( -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) -print0 | sort -z |
    xargs -0 -r awk -v max_file=$max_file -v max_function=$max_function '
      function close_at(column) {
        if (start[column] && !container[column] && FNR - start[column] + 1 > max_function) {
          printf "%s:%d: function of %d lines (limit %d)\n", FILENAME, start[column], FNR - start[column] + 1, max_function
          errors++
        }
        start[column] = 0
      }
      FNR == 1 { start[0] = start[2] = 0 }
      FNR == max_file + 1 { printf "%s:%d: file of more than %d lines\n", FILENAME, FNR, max_file; errors++ }
      /^[A-Za-z_~[]/ { start[0] = FNR; container[0] = /^(namespace|class|struct|union|enum|extern "C"|HWY_(BEFORE|AFTER))/ && !/\) *(const|noexcept)? *\{$/ }
      /^  [A-Za-z_~[]/ { start[2] = FNR; container[2] = /^  (class|struct|union|enum) / && !/\) *(const|noexcept)? *\{$/ }
      /^}( *\/\/.*)?$/ { close_at(0) }
      /^  }( *\/\/.*)?$/ { close_at(2) }
      END { exit errors > 0 }
    ' || status=1
fi

# One test per operator of the CPU backend. A file without behaviour of its own says why: `// lint: no test: <reason>`.
for f in $(find csrc/cpu -name '*.cpp' 2>/dev/null | sort); do
  t=tests/${f#csrc/}
  t=${t%.cpp}_test.cpp
  if [ ! -e "$t" ] && ! grep -q '// lint: no test: ' "$f"; then
    echo "$f:1: no mirrored test $t"
    status=1
  fi
done
for d in base device data model rollout reward checkpoint plan report grpo; do
  if [ -n "$(find "csrc/$d" -name '*.cpp' 2>/dev/null | head -1)" ] &&
     [ -z "$(find "tests/$d" -name '*_test.cpp' 2>/dev/null | head -1)" ]; then
    echo "warning: csrc/$d has no test in tests/$d/"
  fi
done
exit $status
