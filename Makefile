# One build, one test, one demo command; `make help` lists the targets. CONFIG=release|debug|asan picks build/<config>/.
CONFIG ?= release
ARCH   ?= native
B      := build/$(CONFIG)

.DEFAULT_GOAL := all
.SUFFIXES:
.SECONDARY:
.SECONDEXPANSION:
.DELETE_ON_ERROR:
.PHONY: all help setup demo demo-seeds sim sim-sweep fuzz test run-tests bench lint format format-check gpu-bundle gpu-check profile clean FORCE
MAKEFLAGS += -rR --no-print-directory
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 2)
endif
SHELL := bash
CXX := g++

# What the demo runs, on how many ranks; a second task follows it into the same report.
DEMO      = demo --no-resume configs/demo.toml
DEMO_TWO  = demo --no-resume configs/countdown.toml --run-dir runs/demo/countdown
DEMO_NP  ?= 2
SEEDS    ?= 1 2 3
# Ranks of one machine over shared memory: no probing of network cards, no pinning (two runs would share a core).
export MPIRUN = mpirun --oversubscribe --quiet --bind-to none --mca pml ob1 --mca btl self,vader $(NO_CMA)
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export PTXSIM_LIBDIR := $(CURDIR)/$(B)/ptxsim

# --- sources: found, never listed ---
cpp         = $(sort $(shell find $(wildcard $1) -name '*.cpp' 2>/dev/null))
LIB_SRCS   := $(filter-out csrc/cli/main.cpp,$(call cpp,csrc mpi))
TEST_SRCS  := $(filter-out tests/e2e/% tests/fuzz/% tests/ptxsim/% tests/cuda/% tests/nccl/% tests/mpi/cuda/%,$(call cpp,tests))
MPI_MAIN   := $(filter-out %_test.cpp,$(filter tests/mpi/%,$(TEST_SRCS)))
REF_SRCS   := $(filter-out %_test.cpp tests/mpi/%,$(TEST_SRCS))
MPI_TESTS  := $(filter %_test.cpp,$(filter tests/mpi/%,$(TEST_SRCS)))
UNIT_TESTS := $(filter %_test.cpp,$(filter-out tests/mpi/%,$(TEST_SRCS)))
BENCH_SRCS := $(filter-out bench/ptxsim/% bench/cuda/%,$(call cpp,bench))
BENCHES    := $(filter %_bench.cpp,$(BENCH_SRCS))
BENCH_HELP := $(filter-out %_bench.cpp,$(BENCH_SRCS)) $(REF_SRCS)
objs        = $(patsubst %.cpp,$(B)/%.o,$1)

# The CUDA toolkit, 13.x: CUDA_HOME, the usual place, or the wheels of `make setup CUDA=wheels`. Without one there are no
# CUDA programs, and of the simulator everything but its runtime.
TOOLKIT    := $(firstword $(foreach d,$(CUDA_HOME) /usr/local/cuda .cache/cuda/nvidia/cu13,$(if $(and $(wildcard $d/bin/nvcc),$(wildcard $d/lib*/libcudart.so.13)),$d)))
cu          = $(if $(TOOLKIT),$(sort $(shell find $(wildcard $1) -name '*.cu' 2>/dev/null)))
no_runtime  = $(if $(TOOLKIT),,tools/ptxsim/runtime/% tests/ptxsim/runtime/% tests/ptxsim/runtime_test.cpp)
SIM_SRCS   := $(filter-out tools/ptxsim/fuzz/% $(no_runtime),$(call cpp,tools/ptxsim))
SIM_TESTS  := $(filter-out tests/ptxsim/silicon/% tests/ptxsim/planted/% $(no_runtime),$(call cpp,tests/ptxsim))
SIM_HELP   := $(filter-out %_test.cpp,$(SIM_TESTS))
SILICON    := $(call cu,tests/ptxsim/silicon)
PLANTED    := $(call cu,tests/ptxsim/planted)
SIM_BENCH  := $(call cu,bench/ptxsim)
CUDA_SRCS  := $(call cu,cuda)
CUDA_CPP   := $(if $(TOOLKIT),$(call cpp,cuda))
CUDA_TESTS := $(if $(TOOLKIT),$(call cpp,tests/cuda))
CUDA_BENCH := $(if $(TOOLKIT),$(call cpp,bench/cuda))
BENCH_CU   := $(call cu,bench/cuda)
CUDA_MPI   := $(if $(TOOLKIT),$(call cpp,tests/mpi/cuda))
STAND_IN   := $(if $(TOOLKIT),tests/nccl/stand_in_nccl.cpp)
cu_objs     = $(patsubst %.cu,$(B)/%.cu.o,$1)
CUDA_OBJS   = $(call objs,$(CUDA_CPP)) $(call cu_objs,$(CUDA_SRCS))

# ONLY="csrc/cpu csrc/base" makes the library of t/ and b/ from those folders alone, in its own folder.
empty :=
comma := ,
ifneq ($(strip $(ONLY)),)
L := $(B)/only/$(subst /,_,$(subst $(empty) $(empty),+,$(strip $(ONLY))))
LIB_SRCS := $(foreach o,$(ONLY),$(filter $(o) $(o:/=)/%,$(LIB_SRCS)))
SIM_SRCS := $(foreach o,$(ONLY),$(filter $(o) $(o:/=)/%,$(SIM_SRCS)))
else
L := $(B)
endif
LIB := $(L)/libcontender.a

# --- flags: asked for when something is compiled, once, so that help and clean work on a bare machine ---
once = $(eval $1 := $2)$($1)
MPI_CXXFLAGS = $(call once,MPI_CXXFLAGS,$(patsubst -I%,-isystem %,$(shell mpicxx --showme:compile)))
MPI_LDFLAGS  = $(call once,MPI_LDFLAGS,$(filter-out -lmpi_cxx,$(shell mpicxx --showme:link)))
CCACHE       = $(call once,CCACHE,$(shell command -v ccache))
# `native` means another thing on another machine: its expansion is part of the flags and of the cache's key.
ARCH_ID      = $(call once,ARCH_ID,$(shell $(CXX) -march=$(ARCH) -E -x c++ /dev/null -\#\#\# 2>&1 | grep -o " -m.*" | cksum | cut -d' ' -f1))
# Containers filter the system call by which ranks read each other's memory; Open MPI would complain there.
NO_CMA       = $(call once,NO_CMA,$(shell grep -qsE '^Seccomp:\s*[12]' /proc/self/status && echo --mca btl_vader_single_copy_mechanism none))
# No contraction: a*b+c has the same bits in every loop and at every optimisation level. Explicit FMA stays FMA.
FLAGS_release := -O3 -g1
FLAGS_debug   := -O0 -g
FLAGS_asan    := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -Wno-maybe-uninitialized
OPT := $(or $(FLAGS_$(CONFIG)),$(error CONFIG=$(CONFIG): release, debug or asan))
# restrict: false alarms on std::string (GCC bug 105651). psabi: a note about vector arguments. Missing
# designated initialisers take their default on purpose.
WARN := -Wall -Wextra -Werror -Wno-restrict -Wno-psabi -Wno-missing-field-initializers
CXXFLAGS = -std=c++20 $(OPT) -march=$(ARCH) -ffp-contract=off -fno-math-errno -pthread $(WARN) $(EXTRA_CXXFLAGS)
CPPFLAGS = -I. -Icsrc $(MPI_CXXFLAGS) -DOMPI_SKIP_MPICXX -DSPDLOG_COMPILED_LIB -DSPDLOG_SHARED_LIB -DSPDLOG_FMT_EXTERNAL
SIM_CPPFLAGS = -Itools/ptxsim $(patsubst %,-isystem %/include,$(TOOLKIT))
SIM_CXXFLAGS = $(CXXFLAGS) -fPIC -fvisibility=hidden
NO_FALSE_ALARM = -Wno-stringop-overflow # of GCC 12 on fmt's fill characters
SIM_LDLIBS   = -Wl,--as-needed -lfmt -ldl -lrt
# Both images are in the binary: ptxas vets every kernel, the simulator runs its PTX, which must not be compressed.
NVCC      = $(TOOLKIT)/bin/nvcc
NVCCFLAGS = -std=c++20 -gencode arch=compute_90a,code=sm_90a -gencode arch=compute_90a,code=compute_90a --no-compress -lineinfo \
  -Werror all-warnings -I. $(addprefix -Xcompiler ,$(filter -O% -g%,$(OPT)) -ffp-contract=off -Wall -Wextra -Wno-psabi) $(EXTRA_NVCCFLAGS)
LDLIBS   = -Wl,--as-needed $(MPI_LDFLAGS) -lspdlog -lfmt -lsimdjson -lutf8proc -lpcre2-8 -lxxhash -lzstd -lflint-arb -lflint -lgmp -lseccomp -lhwy -ldl

Q   := $(if $(filter 1,$(V)),,@)
say  = $(if $(filter 1,$(V)),,@printf '%-5s %s\n' $1 '$2')

# --- compile and link. Files appear by rename, dated at the start of their making: several makes may share the tree,
# and a header saved during a compilation counts as newer than its object ---
stamp = @mkdir -p $(@D); s='$(strip $1)'; [ "$$s" = "$$(cat $@ 2>/dev/null)" ] || { echo "$$s" >$@.$$$$ && mv $@.$$$$ $@; }
$(B)/flags: FORCE
	$(call stamp,$(CXX) $(CPPFLAGS) $(CXXFLAGS) $(ARCH_ID))
$(L)/members: FORCE
	$(call stamp,$(LIB_SRCS))
$(B)/tests.list: FORCE
	$(call stamp,$(TEST_SRCS) $(BENCH_SRCS))

$(B)/sim.flags: FORCE
	$(call stamp,$(CXX) $(SIM_CPPFLAGS) $(SIM_CXXFLAGS) $(ARCH_ID))
$(B)/cuda.flags: FORCE
	$(call stamp,$(NVCC) $(NVCCFLAGS))
$(B)/sim.list: FORCE
	$(call stamp,$(SIM_TESTS) $(SILICON) $(PLANTED) $(SIM_BENCH) $(CUDA_SRCS) $(CUDA_CPP) $(CUDA_TESTS) $(CUDA_MPI) $(CUDA_BENCH) $(BENCH_CU))
$(L)/sim.members: FORCE
	$(call stamp,$(SIM_SRCS))

compile = $(Q)mkdir -p $(@D); t=$@.$$$$; trap 'rm -f '$$t' '$$t'.*' EXIT; touch $$t.start; \
	CCACHE_NAMESPACE=$(ARCH_ID) $(CCACHE) $1 -MMD -MP -MF $$t.d -MT $@ -c $< -o $$t $2 && \
	touch -r $$t.start $$t && mv $$t.d $(@:.o=.d) && mv $$t $@
$(B)/%.o: %.cpp $(B)/flags
	$(call say,CXX,$<)
	$(call compile,$(CXX) $(CPPFLAGS) $(CXXFLAGS))
$(B)/tools/ptxsim/%.o: tools/ptxsim/%.cpp $(B)/sim.flags
	$(call say,CXX,$<)
	$(call compile,$(CXX) $(SIM_CPPFLAGS) $(SIM_CXXFLAGS) $(NO_FALSE_ALARM))
$(B)/tests/ptxsim/%.o: tests/ptxsim/%.cpp $(B)/sim.flags
	$(call say,CXX,$<)
	$(call compile,$(CXX) -I. $(SIM_CPPFLAGS) $(SIM_CXXFLAGS) $(NO_FALSE_ALARM))
# ptxas only mentions it when it makes the products of a warpgroup wait for each other.
no_serial_wgmma = 2>$$t.said; s=$$?; cat $$t.said >&2; [ $$s -eq 0 ] && ! grep -q 'Potential Performance Loss' $$t.said
$(B)/%.cu.o: %.cu $(B)/cuda.flags
	$(call say,NVCC,$<)
	$(call compile,$(NVCC) $(NVCCFLAGS),$(no_serial_wgmma))

# NVTX is a header of the CUDA toolkit; without it the ranges are left out.
NVTX = $(patsubst %/nvtx3/nvToolsExt.h,-isystem %,$(wildcard $(or $(CUDA_HOME),/usr/local/cuda)/include/nvtx3/nvToolsExt.h))
$(B)/csrc/base/timer.o: private CPPFLAGS += $(NVTX)

$(LIB): $(call objs,$(LIB_SRCS)) $(L)/members
	$(call say,AR,$@)
	$(Q)t=$@.$$$$; ar rcs $$t $(filter %.o,$^) && mv $$t $@

link = $(Q)mkdir -p $(@D); t=$@.$$$$; $(CXX) $(OPT) -pthread $(filter %.o,$^) $(or $2,$(LIB)) $1 $(LDLIBS) -o $$t && mv $$t $@
# All of the library, visible: what the CUDA backend needs of it is there once.
$(B)/contender: $(call objs,csrc/cli/main.cpp) $(LIB)
	$(call say,LINK,$@)
	$(call link,,-rdynamic -Wl$(comma)--whole-archive $(LIB) -Wl$(comma)--no-whole-archive)
$(B)/contender_tests: $(call objs,$(UNIT_TESTS) $(REF_SRCS)) $(LIB) $(B)/tests.list
	$(call say,LINK,$@)
	$(call link,-lgtest_main -lgtest)
$(B)/contender_mpi_tests: $(call objs,$(MPI_TESTS) $(MPI_MAIN) $(REF_SRCS)) $(LIB) $(B)/tests.list
	$(call say,LINK,$@)
	$(call link,-lgtest)
$(B)/contender_bench: $(call objs,$(BENCHES) $(BENCH_HELP)) $(LIB) $(B)/tests.list
	$(call say,LINK,$@)
	$(call link,-lbenchmark_main -lbenchmark -lopenblas)

# The simulator: a libcudart that takes the place of the real one (tools/sim), and its own tests.
$(B)/ptxsim/libcudart.so.13: $(call objs,$(SIM_SRCS)) tools/ptxsim/runtime/libcudart.map $(L)/sim.members
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D); t=$@.$$$$; $(CXX) $(OPT) -shared -pthread $(filter %.o,$^) -Wl,-soname,libcudart.so.13 \
	-Wl,--version-script=$(filter %.map,$^) $(SIM_LDLIBS) -o $$t && mv $$t $@ && ln -sfn libcudart.so.13 $(@D)/libcudart.so
$(L)/libptxsim.a: $(call objs,$(SIM_SRCS)) $(L)/sim.members
	$(call say,AR,$@)
	$(Q)t=$@.$$$$; ar rcs $$t $(filter %.o,$^) && mv $$t $@
link_sim = $(Q)mkdir -p $(@D); t=$@.$$$$; $(CXX) $(OPT) -pthread $(filter %.o %.a,$^) -lgtest_main -lgtest $(SIM_LDLIBS) -o $$t && mv $$t $@
$(B)/ptxsim_tests: $(call objs,$(SIM_TESTS)) $(L)/libptxsim.a $(B)/sim.list
	$(call say,LINK,$@)
	$(call link_sim)
$(L)/t/ptxsim_test: $(call objs,$(SIM_TESTS)) $(L)/libptxsim.a $(B)/sim.list
	$(call say,LINK,$@)
	$(call link_sim)
$(L)/t/ptxsim/%_test: $$(call objs,$$(call pick,ptxsim/$$*,tests,test,$(SIM_TESTS)) $(SIM_HELP)) $(L)/libptxsim.a $(B)/sim.list
	$(call say,LINK,$@)
	$(call link_sim)
# CUDA programs know nothing of it; without an rpath, so that the loader's path decides which runtime they get.
link_cuda = $(Q)mkdir -p $(@D); t=$@.$$$$; $(CXX) $(OPT) -pthread $(filter %.o,$^) $1 $(addprefix -L,$(wildcard $(TOOLKIT)/lib $(TOOLKIT)/lib64)) \
	-l:libcudart.so.13 -ldl -o $$t && mv $$t $@
$(B)/silicon_tests: $(call cu_objs,$(SILICON)) $(B)/sim.list
	$(call say,LINK,$@)
	$(call link_cuda,-lgtest_main -lgtest)
$(B)/t/ptxsim/silicon/%_test: $(B)/tests/ptxsim/silicon/%.cu.o
	$(call say,LINK,$@)
	$(call link_cuda,-lgtest_main -lgtest)
$(B)/planted_bugs: $(call cu_objs,$(PLANTED)) $(B)/sim.list
	$(call say,LINK,$@)
	$(call link_cuda)
# The CUDA backend, which contender loads where there is a GPU; and its operators against the CPU's, in the simulator or on one.
$(call objs,$(CUDA_TESTS) $(CUDA_BENCH) $(CUDA_CPP) $(CUDA_MPI) $(STAND_IN)): private CPPFLAGS += -isystem $(TOOLKIT)/include
$(call objs,$(CUDA_CPP) $(STAND_IN)): private CXXFLAGS += -fPIC
$(call cu_objs,$(CUDA_SRCS)): private NVCCFLAGS += -Icsrc -Xcompiler -fPIC
$(call cu_objs,$(BENCH_CU)): private NVCCFLAGS += -Icsrc
$(CUDA_OBJS): $(B)/cuda.pic
$(B)/cuda.pic: FORCE
	$(call stamp,-fPIC)
$(B)/libcontender_cuda.so: $(CUDA_OBJS) $(B)/sim.list
	$(call say,LINK,$@)
	$(call link_cuda,-shared)
$(B)/cuda_tests: $(call objs,$(CUDA_TESTS)) $(CUDA_OBJS) $(LIB) $(B)/sim.list
	$(call say,LINK,$@)
	$(call link_cuda,$(LIB) -lgtest_main -lgtest $(LDLIBS))
# Collectives on its memory, between ranks; the stand-in takes NCCL's place where LD_LIBRARY_PATH says so.
$(B)/nccl/libnccl.so.2: $(call objs,$(STAND_IN)) $(B)/sim.list
	$(call say,LINK,$@)
	$(call link_cuda,-shared -Wl$(comma)-soname$(comma)libnccl.so.2)
$(B)/cuda_mpi_tests: $(call objs,$(CUDA_MPI) $(MPI_MAIN)) $(filter $(B)/cuda/device/%,$(CUDA_OBJS)) $(LIB) $(B)/sim.list
	$(call say,LINK,$@)
	$(call link_cuda,$(LIB) -lgtest $(LDLIBS))
$(B)/cuda_bench: $(call objs,$(CUDA_BENCH)) $(call cu_objs,$(BENCH_CU)) $(CUDA_OBJS) $(LIB) $(B)/sim.list
	$(call say,LINK,$@)
	$(call link_cuda,$(LIB) -lbenchmark $(LDLIBS))
$(B)/ptxsim_bench: $(call cu_objs,$(SIM_BENCH)) $(B)/sim.list
	$(call say,LINK,$@)
	$(call link_cuda)

# t/cpu/linear = tests/cpu/linear_test.cpp, t/cpu = tests/cpu/**; b/ likewise.
mpi_main = $(if $(filter mpi mpi/%,$1),$(MPI_MAIN))
pick = $(or $(filter $2/$1_$3.cpp $2/$1/%_$3.cpp,$4),$(error no $2/$1_$3.cpp and no tests in $2/$1/))
$(L)/t/%_test: $$(call objs,$$(call pick,$$*,tests,test,$(UNIT_TESTS) $(MPI_TESTS)) $$(call mpi_main,$$*) $(REF_SRCS)) $(LIB) $(B)/tests.list
	$(call say,LINK,$@)
	$(call link,$(if $(call mpi_main,$*),,-lgtest_main) -lgtest)
$(L)/b/%_bench: $$(call objs,$$(call pick,$$*,bench,bench,$(BENCHES)) $(BENCH_HELP)) $(LIB) $(B)/tests.list
	$(call say,LINK,$@)
	$(call link,-lbenchmark_main -lbenchmark -lopenblas)

# Fuzz targets: clang's libFuzzer with address and undefined sanitizers, on a library of the readers alone.
FUZZ       := $(B)/fuzz
CLANG      := $(shell command -v clang++)
FUZZ_LIB   := $(wildcard $(addsuffix .cpp,csrc/base/* tools/ptxsim/ptx/* csrc/checkpoint/safetensors csrc/checkpoint/storage csrc/hub/gguf* \
  $(addprefix csrc/data/,bpe* chat_template* code_* gguf* jsonl_* pretokenize* prompt_text strict_json tokenizer tokenizer_gguf tokenizer_json) csrc/reward/math_* $(addprefix csrc/reward/,code_compare code_program completion)))
FUZZERS    := $(if $(CLANG),$(patsubst tests/fuzz/%.cpp,$(FUZZ)/%,$(wildcard tests/fuzz/*_fuzz.cpp)))
FUZZ_FLAGS  = -std=c++20 -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -Itools/ptxsim
$(FUZZ)/flags: FORCE
	$(call stamp,$(CLANG) $(CPPFLAGS) $(FUZZ_FLAGS))
$(FUZZ)/members: FORCE
	$(call stamp,$(FUZZ_LIB))
$(FUZZ)/%.o: %.cpp $(FUZZ)/flags
	$(call say,CLANG,$<)
	$(call compile,$(CLANG) $(CPPFLAGS) $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link)
$(FUZZ)/readers.a: $(patsubst %.cpp,$(FUZZ)/%.o,$(FUZZ_LIB)) $(FUZZ)/members
	$(call say,AR,$@)
	$(Q)t=$@.$$$$; ar rcs $$t $(filter %.o,$^) && mv $$t $@
$(FUZZ)/%_fuzz: $(FUZZ)/tests/fuzz/%_fuzz.o $(FUZZ)/readers.a
	$(call say,LINK,$@)
	$(Q)t=$@.$$$$; $(CLANG) $(FUZZ_FLAGS) -fsanitize=fuzzer $^ $(LDLIBS) -o $$t && mv $$t $@

# --- what people type ---
help: ## this list
	@sed -nE 's/^([a-z-]+|[tb]\/[a-z\/]*%?):.*## (.*)/  \1|\2/p' Makefile | column -t -s'|'
all: $(if $(wildcard csrc/cli/main.cpp),$(B)/contender,$(LIB)) $(if $(TOOLKIT),$(B)/libcontender_cuda.so) ## build/<config>/contender, and its CUDA backend where there is a toolkit
setup: ## install the Debian packages that are missing (CUDA=wheels: nvcc from Python wheels too, where there is none)
	@TOOLKIT=$(TOOLKIT) tools/setup.sh $(CUDA)
sim: $(if $(TOOLKIT),$(B)/ptxsim/libcudart.so.13) ## the simulator of tools/sim: CUDA programs run on this machine's CPU
	$(if $(TOOLKIT),,@echo "no CUDA 13 toolkit (CUDA_HOME, /usr/local/cuda, make setup CUDA=wheels): CUDA programs are skipped")
demo: setup ## set up, build, and train both demo tasks on DEMO_NP=2 ranks
	@$(MAKE) all
	@$(MPIRUN) -np $(DEMO_NP) $(B)/contender $(DEMO)
	@$(MPIRUN) -np $(DEMO_NP) $(B)/contender $(DEMO_TWO)
	@$(B)/contender report runs/demo
demo-seeds: setup ## the demo for seeds 1 2 3, one row each
	@$(MAKE) all
	@tools/demo_seeds.sh "$(B)/contender $(DEMO)" $(DEMO_NP) $(SEEDS)
test: setup ## set up, build, lint, and run every test
	@$(MAKE) all run-tests
run-tests: all sim $(if $(SIM_TESTS),$(B)/ptxsim_tests) $(if $(SILICON),$(B)/silicon_tests) $(if $(PLANTED),$(B)/planted_bugs) $(if $(CUDA_TESTS),$(B)/cuda_tests) $(if $(CUDA_BENCH),$(B)/cuda_bench) $(if $(CUDA_MPI),$(B)/cuda_mpi_tests $(B)/nccl/libnccl.so.2) $(if $(UNIT_TESTS),$(B)/contender_tests) $(if $(and $(MPI_TESTS),$(MPI_MAIN)),$(B)/contender_mpi_tests) $(FUZZERS)
	@tools/test.sh $(B)
t/%: $(L)/t/%_test FORCE ## run the tests of one path: t/cpu/linear, t/cpu, t/mpi/group NP=2 (GTEST_FILTER, ONLY="csrc/cpu ...")
	$(Q)[ -t 1 ] || export GTEST_COLOR=no; $(if $(filter mpi mpi/%,$*),for n in $(or $(NP),1 2 4); do echo "np=$$n"; $(MPIRUN) -np $$n $< || exit; done,$<)
t/cuda: $(B)/cuda_tests sim FORCE ## the operators of the CUDA backend, in the simulator (SIM=..., GTEST_FILTER=...)
	$(Q)tools/sim $(SIM) $<
t/mpi/cuda: $(B)/cuda_mpi_tests $(B)/nccl/libnccl.so.2 sim FORCE ## collectives on the simulator's memory, staged and by NCCL's stand-in (NP=2, SIM=...)
	$(Q)export LD_LIBRARY_PATH=$(CURDIR)/$(B)/nccl; for n in $(or $(NP),1 2 4); do echo "np=$$n"; $(MPIRUN) -np $$n tools/sim $(SIM) $< || exit; done
t/ptxsim/silicon: $(B)/silicon_tests sim FORCE
	$(Q)tools/sim $(SIM) $<
t/ptxsim/silicon/%: $(B)/t/ptxsim/silicon/%_test sim FORCE ## CUDA tests in the simulator: t/ptxsim/silicon/wgmma (SIM="--late --check --seed 3")
	$(Q)tools/sim $(SIM) $<
sim-sweep: $(B)/silicon_tests sim ## the CUDA tests late and checked under SWEEP=50 seeds, one line each
	@for s in $$(seq 1 $(or $(SWEEP),50)); do tools/sim --devices 2 --late --check --seed $$s $< --gtest_brief=1 >$(B)/sweep.log 2>&1 || \
	{ cat $(B)/sweep.log; echo "seed $$s failed"; exit 1; }; echo "seed $$s: $$(grep -F '[  PASSED  ]' $(B)/sweep.log | tail -n 1)"; done
fuzz: $(FUZZERS) ## every reader of files from outside under libFuzzer for FUZZ_S=600 seconds, with a table (clang++)
	@date +%F; tools/fuzz.sh $(B) $(or $(FUZZ_S),600) $(FUZZ)/corpus
bench: setup ## build and run every benchmark (ARGS=--benchmark_filter=...)
	@$(MAKE) $(B)/contender_bench
	@$(B)/contender_bench $(ARGS)
b/%: $(L)/b/%_bench FORCE ## run the benchmarks of one path
	$(Q)$< $(ARGS)
b/cuda: $(B)/cuda_bench sim FORCE ## the CUDA benches on a GPU; where there is none, their small shapes in the simulator
	$(Q)if nvidia-smi -L >/dev/null 2>&1; then $< $(ARGS); else tools/sim $(SIM) $< --smoke $(ARGS); fi
b/ptxsim: $(B)/ptxsim_bench sim FORCE ## the simulator's own numbers beside their bars
	$(Q)bench/ptxsim/run.sh $(B)
lint: ## include arrows, size limits, mirrored tests
	@tools/lint.sh
FORMAT_FILES = $(or $(F),$(shell find $(wildcard csrc mpi cuda tests bench tools) -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh'))
format: ## clang-format in place (F="files" for some)
	@[ -z "$(FORMAT_FILES)" ] || clang-format -i $(FORMAT_FILES)
format-check: ## clang-format, changing nothing
	@[ -z "$(FORMAT_FILES)" ] || clang-format --dry-run --Werror $(FORMAT_FILES)
gpu-bundle: $(B)/silicon_tests $(B)/cuda_tests $(B)/cuda_bench $(B)/contender $(B)/libcontender_cuda.so ## build/gpu/bundle.tar.gz: the CUDA programs with their libraries, for a bare machine with a GPU
	@tools/gpu_bundle.sh $(B) build/gpu
gpu-check: ## on a machine with a GPU: tests, training, benches, sanitizer; report in bench/results (GPU_CHECK_SIM=1 rehearses)
	@tools/gpu_check.sh
profile: ## Nsight on one NVTX range: RANGE=rms_norm/16384x7168 (a row of cuda_bench), RANGE=update (of the demo)
	@tools/profile.sh $(B) "$(RANGE)"
clean: ## remove build/
	rm -rf build

-include $(patsubst %.cpp,$(FUZZ)/%.d,$(FUZZ_LIB) $(wildcard tests/fuzz/*_fuzz.cpp)) $(patsubst %.o,%.d,$(call cu_objs,$(CUDA_SRCS) $(BENCH_CU)) $(call objs,$(CUDA_TESTS) $(CUDA_BENCH) $(CUDA_CPP) $(CUDA_MPI) $(STAND_IN) $(LIB_SRCS) csrc/cli/main.cpp $(TEST_SRCS) $(BENCH_SRCS) $(SIM_SRCS) $(SIM_TESTS)) $(call cu_objs,$(SILICON) $(PLANTED) $(SIM_BENCH)))
