#!/usr/bin/env bash
# tools/gpu_bundle.sh BUILD_DIR OUT_DIR: the CUDA programs of a build and the shared libraries that a bare machine with a GPU
# may lack, stripped and packed into OUT_DIR/bundle.tar.gz, for a machine with neither this compiler nor these packages.
# There, tools/gpu_check.sh unpacks it. Its C library and libstdc++ have to be as new as here; its CPU has to know what this
# build was compiled for (`make gpu-bundle ARCH=x86-64-v3` where it is an older one).
set -euo pipefail
build=$1
out=$2
programs=(silicon_tests cuda_tests cuda_bench contender)
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
mkdir -p "$here/bin" "$here/lib" "$here/openmpi/lib" "$out"

files=()
for p in "${programs[@]}" libcontender_cuda.so; do
  strip -o "$here/bin/$p" "$build/$p"
  files+=("$build/$p")
done
# Everything but the C and C++ runtimes, which belong to the machine's own loader.
plugins=$(dirname "$(find -L /usr/lib /usr/lib64 -name mca_pml_ob1.so -print -quit 2>/dev/null)")
[ "$plugins" = . ] || files+=("$plugins/mca_pml_ob1.so" "$plugins/mca_btl_vader.so")
ldd "${files[@]}" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
  grep -vE '/(libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s|ld-linux.*)\.so' | xargs -I{} cp -L {} "$here/lib/"
# What Open MPI loads to run one process; the others speak to networks and batch systems.
if [ "$plugins" != . ]; then
  mkdir -p "$here/openmpi/lib/$(basename "$plugins")"
  for c in allocator_basic allocator_bucket bml_r2 btl_self btl_vader coll_basic coll_inter coll_libnbc coll_self coll_sm \
    coll_sync coll_tuned errmgr_default_app ess_env ess_singleton grpcomm_direct mpool_hugepage op_avx osc_rdma osc_sm \
    patcher_overwrite pmix_isolated pml_ob1 pstat_linux rcache_grdma reachable_weighted rml_oob routed_direct schizo_ompi \
    shmem_mmap shmem_posix state_app topo_basic vprotocol_pessimist; do
    [ ! -e "$plugins/mca_$c.so" ] || cp -L "$plugins/mca_$c.so" "$here/openmpi/lib/$(basename "$plugins")/"
  done
fi
strip --strip-unneeded "$here"/lib/*.so* "$here"/openmpi/lib/*/*.so 2>/dev/null || true
git rev-parse HEAD >"$here/commit" 2>/dev/null || echo unknown >"$here/commit"
[ -z "$(git status --porcelain 2>/dev/null)" ] || echo "$(cat "$here/commit"), with uncommitted changes" >"$here/commit"
# Sourced before a program of the bundle runs; `bundle` is its folder.
cat >"$here/env" <<'END'
export LD_LIBRARY_PATH=$bundle/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export OPAL_PREFIX=$bundle/openmpi OMPI_MCA_ess_singleton_isolated=1 OMPI_MCA_mca_base_component_show_load_errors=0
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
END
tar -C "$here" -czf "$out/bundle.tar.gz.$$" . && mv "$out/bundle.tar.gz.$$" "$out/bundle.tar.gz"
bytes=$(stat -c %s "$out/bundle.tar.gz")
printf '%s: %d programs, %d libraries, %.1f MiB\n' "$out/bundle.tar.gz" ${#programs[@]} "$(ls "$here/lib" | wc -l)" \
  "$(awk -v b="$bytes" 'BEGIN { print b / 1048576 }')"
