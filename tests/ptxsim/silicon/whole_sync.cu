// Blocks, clusters, devices and processes that wait for each other.
#include <cooperative_groups.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

namespace silicon {
namespace {

__global__ void count_under_lock(int* lock, int* count, int rounds) {
  for (int k = 0; k < rounds; ++k) {
    bool done = false;
    while (!done) {
      if (atomicCAS(lock, 0, 1) == 0) {
        __threadfence();
        *count = *count + 1;
        __threadfence();
        atomicExch(lock, 0);
        done = true;
      }
    }
  }
}

TEST(WholeSync, SpinLock) {
  Array<int> lock(std::vector<int>{0}), count(std::vector<int>{0});
  launch({.grid = 6, .block = 40}, count_under_lock, lock.get(), count.get(), 3);
  expect_same(count.host(), {6 * 40 * 3});
}

// Every block adds its part in every phase and all see the whole at its end.
__global__ void phases(unsigned* parts, unsigned* sums, int n_phases) {
  cooperative_groups::grid_group grid = cooperative_groups::this_grid();
  for (int p = 0; p < n_phases; ++p) {
    if (threadIdx.x == 0) parts[blockIdx.x] = (p + 1) * (blockIdx.x + 1);
    grid.sync();
    unsigned sum = 0;
    for (unsigned k = 0; k < gridDim.x; ++k) sum += parts[k];
    if (threadIdx.x == 0) sums[p * gridDim.x + blockIdx.x] = sum;
    grid.sync();
  }
}

TEST(WholeSync, GridBarrier) {
  const int blocks = 20, n_phases = 3;
  Array<unsigned> parts(blocks), sums(blocks * n_phases);
  launch({.grid = blocks, .block = 64, .cooperative = true}, phases, parts.get(), sums.get(), n_phases);
  std::vector<unsigned> want;
  for (int p = 0; p < n_phases; ++p) want.insert(want.end(), blocks, (p + 1) * blocks * (blocks + 1) / 2);
  expect_same(sums.host(), want);
}

// The first block waits for the last: an ordinary launch of blocks that the GPU holds all at once.
__global__ void wait_for_the_last(volatile int* flag, int* out) {
  if (blockIdx.x == gridDim.x - 1) {
    __threadfence();
    *flag = 1;
  } else {
    while (*flag == 0) {
    }
  }
  out[blockIdx.x] = *flag;
}

TEST(WholeSync, BlocksAtOnce) {
  Array<int> flag(std::vector<int>{0}), out(50);
  launch({.grid = 50, .block = 1}, wait_for_the_last, flag.get(), out.get());
  expect_same(out.host(), std::vector<int>(50, 1));
}

// A ring inside a cluster: each block adds to what its left neighbour sends, through distributed shared
// memory.
__global__ void __cluster_dims__(4) ring(int* out) {
  __shared__ int box;
  cooperative_groups::cluster_group cluster = cooperative_groups::this_cluster();
  const unsigned rank = cluster.block_rank(), n = cluster.num_blocks();
  int value = int(rank) + 10 * int(blockIdx.x / n);
  for (unsigned step = 0; step < n; ++step) {
    if (threadIdx.x == 0) *cluster.map_shared_rank(&box, (rank + 1) % n) = value;
    cluster.sync();
    value = box + 1;
    cluster.sync();
  }
  if (threadIdx.x == 0) out[blockIdx.x] = value;
}

TEST(WholeSync, ClusterRing) {
  Array<int> out(8);
  launch({.grid = 8, .block = 64, .cluster = 4}, ring, out.get());
  // After four steps of the ring everybody's value is back, one more per step.
  expect_same(out.host(), {4, 5, 6, 7, 14, 15, 16, 17});
}

// Two sides send a number back and forth through flags in each other's memory.
__global__ void play(int side, volatile int* mine, volatile int* theirs, int rounds, int* last) {
  for (int k = 0; k < rounds; ++k) {
    if (side == 0) {
      theirs[1] = 3 * k;
      __threadfence_system();
      theirs[0] = k + 1;
    }
    while (mine[0] != k + 1) {
    }
    __threadfence_system();
    *last = mine[1];
    if (side == 1) {
      theirs[1] = mine[1] + 1;
      __threadfence_system();
      theirs[0] = k + 1;
    }
  }
}

TEST(WholeSync, TwoStreams) {
  Array<int> box0(std::vector<int>(2)), box1(std::vector<int>(2)), last(2);
  cudaStream_t stream[2];
  for (cudaStream_t& s : stream) check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "stream");
  play<<<1, 1, 0, stream[0]>>>(0, box0.get(), box1.get(), 5, last.get());
  play<<<1, 1, 0, stream[1]>>>(1, box1.get(), box0.get(), 5, last.get() + 1);
  check(cudaDeviceSynchronize(), "synchronize");
  expect_same(last.host(), {13, 12});
  for (cudaStream_t s : stream) cudaStreamDestroy(s);
}

TEST(WholeSync, TwoDevices) {
  int devices = 0;
  check(cudaGetDeviceCount(&devices), "count");
  if (devices < 2) GTEST_SKIP() << "one device";
  int *box[2], *last[2];
  for (int d = 0; d < 2; ++d) {
    check(cudaSetDevice(d), "set");
    check(cudaDeviceEnablePeerAccess(1 - d, 0), "peer");
    check(cudaMalloc(&box[d], 8), "malloc");
    check(cudaMalloc(&last[d], 4), "malloc");
    check(cudaMemset(box[d], 0, 8), "memset");
    check(cudaDeviceSynchronize(), "synchronize");
  }
  for (int d = 0; d < 2; ++d) {
    check(cudaSetDevice(d), "set");
    play<<<1, 1>>>(d, box[d], box[1 - d], 5, last[d]);
  }
  for (int d = 0; d < 2; ++d) {
    check(cudaSetDevice(d), "set");
    check(cudaDeviceSynchronize(), "synchronize");
    int v;
    check(cudaMemcpy(&v, last[d], 4, cudaMemcpyDeviceToHost), "copy");
    EXPECT_EQ(v, d == 0 ? 13 : 12);
    cudaFree(box[d]);
    cudaFree(last[d]);
  }
  cudaSetDevice(0);
}

// --- two processes: the same binary again, as rank 0 and 1, each with the other's box mapped by its IPC
// handle ---
constexpr const char* kRankVariable = "TWO_RANKS";  // "rank,read end,write end"

TEST(TwoRanks, Rank) {
  const char* spec = std::getenv(kRankVariable);
  if (!spec) GTEST_SKIP() << "started by WholeSync.TwoProcesses";
  int rank, from, to;
  ASSERT_EQ(3, std::sscanf(spec, "%d,%d,%d", &rank, &from, &to));
  int *mine, *theirs;
  Array<int> last(1);
  CUDA_OK(cudaMalloc(&mine, 8));
  CUDA_OK(cudaMemset(mine, 0, 8));
  CUDA_OK(cudaDeviceSynchronize());
  cudaIpcMemHandle_t handle;
  CUDA_OK(cudaIpcGetMemHandle(&handle, mine));
  ASSERT_EQ(ssize_t(sizeof handle), write(to, &handle, sizeof handle));
  ASSERT_EQ(ssize_t(sizeof handle), read(from, &handle, sizeof handle));
  CUDA_OK(cudaIpcOpenMemHandle(reinterpret_cast<void**>(&theirs), handle, cudaIpcMemLazyEnablePeerAccess));
  launch({.block = 1}, play, rank, mine, theirs, 3, last.get());
  expect_same(last.host(), {rank == 0 ? 7 : 6});
  // Neither may go while the other still reads its memory.
  char done = 1;
  ASSERT_EQ(1, write(to, &done, 1));
  ASSERT_EQ(1, read(from, &done, 1));
  CUDA_OK(cudaIpcCloseMemHandle(theirs));
  cudaFree(mine);
}

TEST(WholeSync, TwoProcesses) {
  int pipes[2][2];  // [r]: from rank r to the other
  for (auto& p : pipes) ASSERT_EQ(0, pipe(p));
  pid_t children[2];
  for (int r = 0; r < 2; ++r) {
    const std::string spec =
        std::to_string(r) + "," + std::to_string(pipes[1 - r][0]) + "," + std::to_string(pipes[r][1]);
    children[r] = fork();
    if (children[r] == 0) {
      setenv(kRankVariable, spec.c_str(), 1);
      unsetenv("GTEST_TOTAL_SHARDS");
      unsetenv("GTEST_SHARD_INDEX");
      execl("/proc/self/exe", "silicon_tests", "--gtest_filter=TwoRanks.Rank", "--gtest_brief=1", nullptr);
      _exit(127);
    }
  }
  for (auto& p : pipes)
    for (const int fd : p) close(fd);
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(child, waitpid(child, &status, 0));
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
  }
}

}  // namespace
}  // namespace silicon
