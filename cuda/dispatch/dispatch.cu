// What: the plans of the expert exchange: where a rank's rows go, and the sorted order of those that come.
// Math: a stable counting sort of (token, choice) by expert for each chunk; exclusive sums of the counts
//   that arrive, by (expert, slot) for each peer and by (expert, peer, slot).
// Shapes: ops/dispatch.h; T tokens of top_k choices, A = ep * experts experts in all. No tokens are legal.
// Layouts: everything is dense.
// Precision: integers; atomics only count or set bits, so that no order shows.
// Schedule: one launch each. Sending: a cluster of up to 8 blocks for each chunk, a block has a share of its
//   tokens. It counts its choices by expert, tells its counts to the others, and places its tokens 1,024 at
//   a time: a bit for each (expert, token) in shared memory, so that the rank of a token among those of its
//   expert is a count of bits, whatever thread asks. The rank at each slot's first token goes to the
//   workspace, and the header is their differences. Arrival: every block sums the header of its chunk for
//   itself (A * slots counts, from L2) and then writes the runs of its share of the (expert, peer) pairs.
// Roofline: bytes: sending 16 T top_k (choices twice, pos, source), arrival 4 a row; but some 170 warp
//   instructions for 32 choices on at most 8 SMs a chunk, and about six barriers a tile: bound by
//   instructions and latency, some 20 us for a chunk of 16K tokens with 8 of 256 experts.
// Limits: 1,024 experts in all. An expert out of range or a negative count traps with a line.
// Source: ops/dispatch.h; DeepSeek-V3 (arXiv 2412.19437), section 3.2.
#include <bit>

#include "cuda/common/device_check.cuh"
#include "cuda/common/grid.h"
#include "cuda/common/rows.cuh"
#include "cuda/common/shared_memory.h"
#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "ops/dispatch.h"

namespace contender::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxExperts = 1024;
constexpr int kTileWords = 32;
constexpr int kTileTokens = 32 * kTileWords;
constexpr int kAhead = 8;
constexpr int kTokensPerBlock = 512;  // below which a chunk takes fewer blocks
constexpr unsigned kAll = 0xFFFFFFFFu;

// The sum over the lanes up to this one.
__device__ int warp_sum_to(int value) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int o = 1; o < 32; o *= 2) {
    const int before = __shfl_up_sync(kAll, value, o);
    if (lane >= o) value += before;
  }
  return value;
}

// values[i] of i < count, summed over those before i, in place; by one warp. Returns the sum of all.
__device__ int warp_scan(int* values, int count) {
  const int lane = threadIdx.x % 32;
  int sum = 0;
  for (int first = 0; first < count; first += 32) {
    const int value = first + lane < count ? values[first + lane] : 0, end = warp_sum_to(value);
    if (first + lane < count) values[first + lane] = sum + end - value;
    sum += __shfl_sync(kAll, end, 31);
  }
  return sum;
}

// --- sending ---

__device__ unsigned cluster_size() {
  unsigned n;
  asm volatile("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(n));
  return n;
}
__device__ unsigned cluster_rank() {
  unsigned r;
  asm volatile("mov.u32 %0, %%cluster_ctaid.x;" : "=r"(r));
  return r;
}
// Writes of the cluster's blocks before it, to global memory too, are seen behind it.
__device__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The tokens of a tile that chose an expert, and the rank of each word's first token among them; behind the
// last word, their number. Padded so that the experts of one token lie in different banks.
using Bits = uint32_t[kTileWords + 1];
using Ranks = uint16_t[kTileWords + 2];

struct SendSmem {
  int next[kMaxExperts];   // place of the expert's next row in its block
  int begin[kMaxExperts];  // of its first row in the chunk
  int end[kMaxExperts];
  Bits bits[];  // [A], then Ranks [A]

  __device__ Ranks* ranks(int experts) { return reinterpret_cast<Ranks*>(bits + experts); }
};
constexpr size_t send_smem_bytes(int64_t experts) {
  return sizeof(SendSmem) + static_cast<size_t>(experts) * (sizeof(Bits) + sizeof(Ranks));
}
static_assert(send_smem_bytes(kMaxExperts) <= kMaxSharedMemory);

// The chunk's tokens, and those of this block.
struct Share {
  int chunk, chunk_begin, chunk_end, begin, end;
};
__device__ Share find_share(int64_t tokens, int64_t chunks) {
  const int64_t c = blockIdx.y, rank = cluster_rank(), parts = cluster_size();
  const int64_t begin = tokens * c / chunks, end = tokens * (c + 1) / chunks, n = end - begin;
  return {static_cast<int>(c), static_cast<int>(begin), static_cast<int>(end),
          static_cast<int>(begin + n * rank / parts), static_cast<int>(begin + n * (rank + 1) / parts)};
}

// x / divisor for x * divisor < 2^32, by one multiplication.
struct Divider {
  unsigned divisor, inverse;
  __device__ explicit Divider(int64_t d)
      : divisor(static_cast<unsigned>(d)), inverse(0xFFFFFFFFu / divisor + 1) {}
  __device__ unsigned operator()(unsigned x) const { return divisor == 1 ? x : __umulhi(x, inverse); }
};

// f(index, expert) for the choices of tokens [begin, end), one a thread; reads run ahead.
template <class F>
__device__ void for_each_choice(const SendPlanArgs& a, int begin, int end, const F& f) {
  const int top_k = static_cast<int>(a.shape.top_k), count = (end - begin) * top_k;
  const int32_t* expert = static_cast<const int32_t*>(a.expert.data) + int64_t{begin} * top_k;
  for (int first = threadIdx.x; first < count; first += kAhead * kThreads) {
    int e[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      e[k] = first + k * kThreads < count ? __ldg(expert + first + k * kThreads) : 0;
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (first + k * kThreads < count) f(first + k * kThreads, e[k]);
    }
  }
}

// Counts of this block by expert, into next and into the workspace.
__device__ void count_choices(const SendPlanArgs& a, SendSmem& smem, const Share& share, int* counts) {
  const int all = static_cast<int>(a.shape.ep * a.shape.experts);
  for (int e = threadIdx.x; e < all; e += kThreads) smem.next[e] = 0;
  __syncthreads();
  for_each_choice(a, share.begin, share.end, [&](int i, int e) {
    DEVICE_CHECK(0 <= e && e < all, "send_plan: expert %d of %d for token %d", e, all,
                 share.begin + i / static_cast<int>(a.shape.top_k));
    atomicAdd(&smem.next[e], 1);
  });
  __syncthreads();
  for (int e = threadIdx.x; e < all; e += kThreads) {
    const int n = smem.next[e];
    counts[static_cast<int>(cluster_rank()) * all + e] = n;
    if (a.load && n > 0) atomicAdd(&a.load[e], n);
  }
}

// begin, end and next from the counts of all blocks of the chunk; the use of its blocks of rows.
__device__ void begin_experts(const SendPlanArgs& a, SendSmem& smem, const Share& share, const int* counts) {
  const DispatchShape& s = a.shape;
  const int all = static_cast<int>(s.ep * s.experts), experts = static_cast<int>(s.experts),
            parts = static_cast<int>(cluster_size()), rank = static_cast<int>(cluster_rank());
  for (int e = threadIdx.x; e < all; e += kThreads) {
    int before = 0, total = 0;
    for (int r = 0; r < parts; ++r) {
      const int n = counts[r * all + e];
      before += r < rank ? n : 0;
      total += n;
    }
    smem.next[e] = before;
    smem.begin[e] = smem.end[e] = total;
  }
  __syncthreads();
  for (int peer = threadIdx.x / 32; peer < s.ep; peer += kWarps) {
    const int rows = warp_scan(&smem.begin[peer * experts], experts);
    if (rank != 0 || threadIdx.x % 32 != 0) continue;
    const int capacity = static_cast<int>(s.capacity);
    a.counts[share.chunk * s.ep + peer] = min(rows, capacity);
    if (rows > capacity) atomicMax(a.overflow, rows);
  }
  __syncthreads();
  for (int e = threadIdx.x; e < all; e += kThreads) {
    smem.next[e] += smem.begin[e];
    smem.end[e] += smem.begin[e];
  }
  __syncthreads();
}

// Bits of the tokens [begin, end), and the ranks of their words.
__device__ void mark_tile(const SendPlanArgs& a, const Divider& by_top_k, Bits* bits, Ranks* ranks, int begin,
                          int end) {
  const int all = static_cast<int>(a.shape.ep * a.shape.experts), lane = threadIdx.x % 32;
  for (int e = threadIdx.x / 32; e < all; e += kWarps) bits[e][lane] = 0;
  __syncthreads();
  for_each_choice(a, begin, end, [&](int i, int e) {
    const unsigned row = by_top_k(static_cast<unsigned>(i));
    atomicOr(&bits[e][row / 32], 1u << row % 32);
  });
  __syncthreads();
  for (int e = threadIdx.x / 32; e < all; e += kWarps) {
    const int value = __popc(bits[e][lane]), last = warp_sum_to(value);
    ranks[e][lane] = static_cast<uint16_t>(last - value);
    if (lane == 31) ranks[e][kTileWords] = static_cast<uint16_t>(last);
  }
  __syncthreads();
}

// Places the block's tokens; cuts[slot][e] is where the expert's rows of that slot begin, for slots that
// begin among them.
__device__ void place_choices(const SendPlanArgs& a, SendSmem& smem, const Share& share, int* cuts) {
  const DispatchShape& s = a.shape;
  const int all = static_cast<int>(s.ep * s.experts), capacity = static_cast<int>(s.capacity);
  const Divider by_top_k(s.top_k), by_experts(s.experts);
  Bits* bits = smem.bits;
  Ranks* ranks = smem.ranks(all);
  for (int begin = share.begin; begin < share.end; begin += kTileTokens) {
    const int end = min(begin + kTileTokens, share.end);
    mark_tile(a, by_top_k, bits, ranks, begin, end);
    const auto place_of = [&](int e, unsigned row) {  // row: token of the tile
      const uint32_t before = bits[e][row / 32] & ((1u << row % 32) - 1);
      return smem.next[e] + ranks[e][row / 32] + __popc(before);
    };
    int32_t* pos = static_cast<int32_t*>(a.pos.data) + begin * s.top_k;
    for_each_choice(a, begin, end, [&](int i, int e) {
      const unsigned row = by_top_k(static_cast<unsigned>(i));
      const int place = place_of(e, row), peer = static_cast<int>(by_experts(static_cast<unsigned>(e))),
                block = (share.chunk * static_cast<int>(s.ep) + peer) * capacity;
      pos[i] = block + min(place, capacity - 1);
      if (place < capacity) a.source[block + place] = begin + static_cast<int>(row);
    });
    for (int slot = 1; slot < s.slots; ++slot) {
      const int token = a.slot_begin[slot];
      if (token < begin || token >= end) continue;
      for (int e = threadIdx.x; e < all; e += kThreads)
        cuts[slot * all + e] = place_of(e, static_cast<unsigned>(token - begin));
    }
    __syncthreads();
    for (int e = threadIdx.x; e < all; e += kThreads) smem.next[e] += ranks[e][kTileWords];
  }
}

// This block's share of the unused rows of all blocks of the chunk.
__device__ void clear_unused(const SendPlanArgs& a, const SendSmem& smem, const Share& share) {
  const DispatchShape& s = a.shape;
  for (int64_t peer = 0; peer < s.ep; ++peer) {
    const int used = smem.end[(peer + 1) * s.experts - 1];
    int32_t* source = a.source + (share.chunk * s.ep + peer) * s.capacity;
    for (int64_t i = used + cluster_rank() * kThreads + threadIdx.x; i < s.capacity;
         i += cluster_size() * kThreads)
      source[i] = -1;
  }
}

// This block's share of the chunk's part of the header.
__device__ void write_header(const SendPlanArgs& a, const SendSmem& smem, const Share& share,
                             const int* cuts) {
  const DispatchShape& s = a.shape;
  const int all = static_cast<int>(s.ep * s.experts), experts = static_cast<int>(s.experts),
            slots = static_cast<int>(s.slots), capacity = static_cast<int>(s.capacity);
  const auto cut = [&](int e, int slot) {
    if (slot == 0) return smem.begin[e];
    if (slot == slots) return smem.end[e];
    const int token = a.slot_begin[slot];
    if (token <= share.chunk_begin) return smem.begin[e];
    return token >= share.chunk_end ? smem.end[e] : cuts[slot * all + e];
  };
  for (int i = cluster_rank() * kThreads + threadIdx.x; i < all * slots; i += cluster_size() * kThreads) {
    const int e = i / slots, slot = i % slots, peer = e / experts;
    a.header[((peer * s.chunks + share.chunk) * experts + e % experts) * slots + slot] =
        min(cut(e, slot + 1), capacity) - min(cut(e, slot), capacity);
  }
}

__global__ void __launch_bounds__(kThreads)
    send_kernel(const __grid_constant__ SendPlanArgs a, int* workspace) {
  extern __shared__ __align__(16) unsigned char memory[];
  SendSmem& smem = *reinterpret_cast<SendSmem*>(memory);
  const Share share = find_share(a.expert.rows, a.shape.chunks);
  const int64_t all = a.shape.ep * a.shape.experts;
  int* counts = workspace + share.chunk * (kSendPlanParts + a.shape.slots) * all;
  int* cuts = counts + kSendPlanParts * all;
  count_choices(a, smem, share, counts);
  cluster_sync();
  begin_experts(a, smem, share, counts);
  place_choices(a, smem, share, cuts);
  clear_unused(a, smem, share);
  cluster_sync();
  write_header(a, smem, share, cuts);
}

// --- arrival ---

// Pair p is of expert p / ep and peer p % ep.
struct ArrivalSmem {
  int place[kMaxExperts];  // [peer][expert] rows that the peer sent; then the place of the first in its block
  int kept[kMaxExperts];   // [pair] rows that have a place there
  int row[kMaxExperts];    // [pair] the first in sorted order, of the chunk
  int wanted;              // in the chunk
};

__device__ int peer_rows(const ArrivalPlanArgs& a, const int32_t* header) {
  const int slots = static_cast<int>(a.shape.slots);
  int sum = 0, lowest = 0;
#pragma unroll 8
  for (int slot = 0; slot < slots; ++slot) {
    sum += header[slot];
    lowest = min(lowest, header[slot]);
  }
  DEVICE_CHECK(lowest >= 0, "arrival_plan: a header with %d rows", lowest);
  return sum;
}

// The counts of (peer, expert of this rank) in the chunk, by slot.
__device__ const int32_t* header_of(const ArrivalPlanArgs& a, int chunk, int peer, int expert) {
  const DispatchShape& s = a.shape;
  return a.header + ((peer * s.chunks + chunk) * s.experts + expert) * s.slots;
}

// Sums that say where each pair's rows are, and, by the first block, where experts and peers are.
__device__ void sum_pairs(const ArrivalPlanArgs& a, ArrivalSmem& smem, int chunk) {
  const DispatchShape& s = a.shape;
  const int ep = static_cast<int>(s.ep), experts = static_cast<int>(s.experts), all = ep * experts,
            capacity = static_cast<int>(s.capacity), room = static_cast<int>(a.room);
  const bool tells = blockIdx.x == 0;
  for (int i = threadIdx.x; i < all; i += kThreads) {
    const int peer = i / experts, e = i % experts;
    smem.place[i] = smem.kept[e * ep + peer] = peer_rows(a, header_of(a, chunk, peer, e));
  }
  __syncthreads();
  for (int peer = threadIdx.x / 32; peer < ep; peer += kWarps) {
    const int rows = warp_scan(&smem.place[peer * experts], experts);
    if (!tells || threadIdx.x % 32 != 0) continue;
    a.counts[chunk * s.ep + peer] = min(rows, capacity);
    if (rows > capacity) atomicMax(a.overflow, rows);
  }
  __syncthreads();
  for (int p = threadIdx.x; p < all; p += kThreads) {
    const int left = max(capacity - smem.place[p % ep * experts + p / ep], 0);
    smem.row[p] = smem.kept[p] = min(smem.kept[p], left);
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    const int wanted = warp_scan(smem.row, all);
    if (threadIdx.x == 0) smem.wanted = wanted;
  }
  __syncthreads();
  if (!tells) return;
  for (int e = threadIdx.x; e <= experts; e += kThreads)
    a.offsets[chunk * (s.experts + 1) + e] = min(e < experts ? smem.row[e * ep] : smem.wanted, room);
  if (threadIdx.x == 0) {
    a.rows[chunk] = min(smem.wanted, room);
    if (smem.wanted > room) atomicMax(a.overflow, smem.wanted);
  }
}

// The segments of a pair's slots, by one warp.
__device__ void write_segments(const ArrivalPlanArgs& a, const ArrivalSmem& smem, int chunk, int pair) {
  const DispatchShape& s = a.shape;
  const int ep = static_cast<int>(s.ep), slots = static_cast<int>(s.slots), e = pair / ep, peer = pair % ep,
            lane = threadIdx.x % 32;
  const int kept = smem.kept[pair], room = static_cast<int>(a.room), first = chunk * room;
  const int32_t* header = header_of(a, chunk, peer, e);
  int sum = 0;  // rows of the slots before
  for (int slot0 = 0; slot0 < slots; slot0 += 32) {
    const int slot = slot0 + lane, n = slot < slots ? header[slot] : 0, end = warp_sum_to(n);
    const auto row = [&](int i) { return first + min(smem.row[pair] + min(i, kept), room); };
    if (slot < slots) {
      const int leaf = peer * slots + slot;
      a.segments[((int64_t{e} * ep * slots) + leaf) * s.chunks + chunk] = {row(sum + end - n), row(sum + end),
                                                                           e, leaf};
    }
    sum += __shfl_sync(kAll, end, 31);
  }
}

__global__ void __launch_bounds__(kThreads) arrival_kernel(const __grid_constant__ ArrivalPlanArgs a) {
  __shared__ ArrivalSmem smem;
  const DispatchShape& s = a.shape;
  const int chunk = static_cast<int>(blockIdx.y), ep = static_cast<int>(s.ep),
            experts = static_cast<int>(s.experts), room = static_cast<int>(a.room), first = chunk * room,
            lane = threadIdx.x % 32;
  sum_pairs(a, smem, chunk);
  for (int pair = static_cast<int>(blockIdx.x) * kWarps + threadIdx.x / 32; pair < ep * experts;
       pair += static_cast<int>(gridDim.x) * kWarps) {
    write_segments(a, smem, chunk, pair);
    if (!a.arrival) continue;
    const int e = pair / ep, peer = pair % ep, row = smem.row[pair], end = min(row + smem.kept[pair], room),
              from = peer * static_cast<int>(s.capacity) + smem.place[peer * experts + e];
    for (int i = row + lane; i < end; i += 32) a.arrival[first + i] = from + i - row;
  }
  if (!a.arrival) return;
  for (int i = smem.wanted + static_cast<int>(blockIdx.x * kThreads + threadIdx.x); i < room;
       i += static_cast<int>(gridDim.x) * kThreads)
    a.arrival[first + i] = -1;
}

void check_experts(const DispatchShape& s) {
  if (s.ep * s.experts > kMaxExperts)
    fail(ExitCode::kConfig, "{} experts, at most {}", s.ep * s.experts, kMaxExperts);
}

}  // namespace

void send_plan(const Exec& exec, const SendPlanArgs& a) {
  check_send_plan(a);
  check_experts(a.shape);
  const DispatchShape& s = a.shape;
  CHECK(exec.workspace_bytes >= send_plan_workspace_bytes(a.expert.rows, s), "workspace of {} bytes",
        exec.workspace_bytes);
  allow_shared_memory<send_kernel>();
  const int64_t per_chunk = ceil_div(a.expert.rows, s.chunks);
  const auto parts = static_cast<unsigned>(std::min<int64_t>(
      std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(ceil_div(per_chunk, kTokensPerBlock), 1))),
      kSendPlanParts));
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {parts, 1, 1};
  const cudaLaunchConfig_t config = {.gridDim = dim3(parts, static_cast<unsigned>(s.chunks)),
                                     .blockDim = kThreads,
                                     .dynamicSmemBytes = send_smem_bytes(s.ep * s.experts),
                                     .stream = stream_of(exec),
                                     .attrs = &cluster,
                                     .numAttrs = 1};
  CUDA_CHECK(cudaLaunchKernelEx(&config, send_kernel, a, static_cast<int*>(exec.workspace)));
}

void arrival_plan(const Exec& exec, const ArrivalPlanArgs& a) {
  check_arrival_plan(a);
  check_experts(a.shape);
  const dim3 grid(grid_size(a.shape.ep * a.shape.experts, kWarps), static_cast<unsigned>(a.shape.chunks));
  arrival_kernel<<<grid, kThreads, 0, stream_of(exec)>>>(a);
  CUDA_CHECK_LAUNCH();
}

}  // namespace contender::cuda
