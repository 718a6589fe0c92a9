#!/usr/bin/env bash
# tools/profile.sh BUILD_DIR RANGE: Nsight on one named NVTX range. A row of cuda_bench, which has a slash, goes to Nsight Compute: the
# counters of its kernels. Anything else is a range of the demo on one rank and goes to Nsight Systems; none: all of the demo.
# Clocks are left as they are.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1
range=${2:-}
mkdir -p runs
missing() {
  echo "profile: $1 is not installed; a run's trace.json opens in ui.perfetto.dev without it"
  exit 1
}
case $range in
  */*)
    command -v ncu >/dev/null || missing "ncu (NVIDIA Nsight Compute)"
    [ -x "$build/cuda_bench" ] || make "$build/cuda_bench"
    ncu --nvtx --nvtx-include "${range//\//\\/}/" --clock-control none --set full --launch-count 10 --force-overwrite \
      --export "runs/profile-${range//\//-}" "$build/cuda_bench" "--benchmark_filter=^$range\$"
    ncu --import "runs/profile-${range//\//-}.ncu-rep" --page details --print-summary per-kernel
    ;;
  *)
    command -v nsys >/dev/null || missing "nsys (NVIDIA Nsight Systems)"
    [ -x "$build/contender" ] || make "$build/contender"
    capture=()
    [ -z "$range" ] || capture=(--capture-range=nvtx "--nvtx-capture=$range" --capture-range-end=stop)
    NSYS_NVTX_PROFILER_REGISTER_ONLY=0 nsys profile -t cuda,nvtx,mpi "${capture[@]}" -o "runs/profile-${range:-demo}" \
      --force-overwrite true --stats=true "$build/contender" demo --no-resume configs/demo.toml
    ;;
esac
