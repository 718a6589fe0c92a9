#!/usr/bin/env bash
# tools/setup.sh [wheels]: installs the Debian packages that building, testing and the demo need. Safe to run any number
# of times: when nothing is missing it asks dpkg once and returns. With `wheels`, and no CUDA toolkit (TOOLKIT, from the
# Makefile), nvcc and the runtime come as Python wheels into .cache/cuda (100 MB to fetch, 270 MB on disk).
set -euo pipefail
cd "$(dirname "$0")/.."

wheels=(
  nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-nvtx==13.0.85
)
install_wheels() {
  if [ "${1:-}" != wheels ] || [ -n "${TOOLKIT:-}" ]; then return 0; fi
  echo "setup: installing nvcc into .cache/cuda"
  rm -rf .cache/cuda.new
  python3 -m pip install --quiet --disable-pip-version-check --no-warn-script-location --root-user-action=ignore \
    --no-deps --target .cache/cuda.new "${wheels[@]}"
  .cache/cuda.new/nvidia/cu13/bin/nvcc --version >/dev/null
  rm -rf .cache/cuda
  mv .cache/cuda.new .cache/cuda
}

packages=(
  g++ make ccache git clang-format                       # compiler and tools
  libopenmpi-dev openmpi-bin                             # ranks
  libtomlplusplus-dev libcli11-dev                       # config, command line
  nlohmann-json3-dev libsimdjson-dev                     # JSON out, JSON in
  libfmt-dev libspdlog-dev                               # text, log
  libhwy-dev                                             # SIMD of the CPU kernels
  libxxhash-dev libutf8proc-dev libpcre2-dev             # checksums, Unicode, split patterns
  libzstd-dev                                            # prompt sets as *.zst
  libflint-dev libflint-arb-dev                          # exact and ball arithmetic of the maths verifier
  bubblewrap libseccomp-dev python3                      # the sandbox of programs, and what runs in it
  clang libclang-rt-dev                                  # libFuzzer
  libgtest-dev libbenchmark-dev libopenblas-pthread-dev  # tests; benches and their baseline
)

if [ "${1:-}" = wheels ] && ! python3 -m pip --version >/dev/null 2>&1; then packages+=(python3-pip); fi

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "setup: not a Debian system; please install the equivalents of:" >&2
  printf '  %s\n' "${packages[@]}" >&2
  install_wheels "$@"
  # Whoever installed them by hand only needs the build to go on; the compiler says what is still missing.
  exit 0
fi

installed=$(dpkg-query -W -f='${db:Status-Abbrev} ${Package}\n' "${packages[@]}" 2>/dev/null |
  awk '$1 == "ii" || $1 == "hi" { print $2 }' || true)
missing=()
for p in "${packages[@]}"; do
  grep -qxF -- "$p" <<<"$installed" || missing+=("$p")
done
if [ ${#missing[@]} -eq 0 ]; then
  install_wheels "$@"
  exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "setup: missing ${missing[*]}; neither root nor sudo here. As root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "setup: installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1 || {
    cat "$log" >&2
    echo "setup: apt-get $1 failed" >&2
    return 1
  }
}
# Stale package lists are the usual reason for a failed install, but an unreachable mirror need not stop it.
apt update || true
apt install -y --no-install-recommends "${missing[@]}"
install_wheels "$@"
