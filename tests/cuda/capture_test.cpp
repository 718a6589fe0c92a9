// Operators inside a CUDA graph: what they read is the memory's contents at each launch, not at the capture.
#include <gtest/gtest.h>

#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "tests/cpu/dispatch_inputs.h"
#include "tests/cuda/device_array.h"

namespace contender {
namespace {

using test::DeviceArray;
using test::DeviceTensor;
using test::DeviceWorkspace;
using test::Matrix;

constexpr int64_t kTokens = 9, kExperts = 8, kTopK = 2, kSeqs = 3, kHeads = 2, kDim = 16, kVocab = 40;
constexpr RouterShape kRouter = {.num_experts = kExperts, .top_k = kTopK};
constexpr DispatchShape kDispatch = {
    .ep = 1, .experts = kExperts, .top_k = kTopK, .slots = 2, .chunks = 2, .capacity = 10};
constexpr AttentionShape kAttention = {.num_heads = kHeads,
                                       .num_kv_heads = 1,
                                       .d_qk = kDim,
                                       .d_v = kDim,
                                       .page_size = 16,
                                       .row_width = 2 * kDim,
                                       .k_stride = kDim,
                                       .v_offset = kDim,
                                       .v_stride = kDim};

// A bit of a decoding step and of a loss, in memory of its own.
struct Step {
  DeviceTensor logits{DType::kF32, kTokens, kExperts}, scores{DType::kF32, kTokens, kExperts},
      weight{DType::kF32, kTokens, kTopK};
  DeviceArray<int32_t> expert{kTokens * kTopK}, slot_begin{std::vector<int32_t>{0, 4, kTokens}},
      pos{kTokens * kTopK}, source{20}, counts{2}, header{2 * kExperts * 2}, overflow{1}, arrival{20},
      rows{2}, offsets{2 * (kExperts + 1)};
  DeviceArray<RowSegment> segments{kExperts * 2 * 2};
  DeviceTensor q{DType::kBF16, kSeqs, kHeads*kDim}, kv{DType::kBF16, 64, 2 * kDim},
      o{DType::kBF16, kSeqs, kHeads*kDim};
  DeviceArray<AttentionSeq> seqs{kSeqs};
  DeviceArray<int32_t> page_ids{std::vector<int32_t>{2, 0, 3}};
  DeviceTensor vocab_logits{DType::kF32, kSeqs, kVocab}, columns{DType::kF32, 5, kTokens};
  DeviceArray<SampleParams> params{
      std::vector<SampleParams>{{.temperature = 0.8f}, {.top_k = 5}, {.temperature = 0.0f}}};
  DeviceArray<SampleKey> keys{kSeqs};
  DeviceArray<int32_t> token{kSeqs};
  DeviceTensor logp{DType::kF32, 2, kSeqs}, losses{DType::kF32, 4, kTokens};
  DeviceWorkspace workspace{
      std::max({send_plan_workspace_bytes(kTokens, kDispatch), arrival_plan_workspace_bytes(kDispatch),
                attention_workspace_bytes(kAttention, 1, 16), sample_workspace_bytes(kVocab)})};

  void fill(uint64_t seed) {
    logits.upload(Matrix::random(kTokens, kExperts, seed, 0, 0.5));
    q.upload(Matrix::random(kSeqs, kHeads * kDim, seed + 1, 0, 1.0));
    kv.upload(Matrix::random(64, 2 * kDim, seed + 2, 0, 1.0));
    vocab_logits.upload(Matrix::random(kSeqs, kVocab, seed + 3, 0, 0.5));
    columns.upload(Matrix::random(5, kTokens, seed + 4, 0, 1.0));
    overflow.upload({0});
    std::vector<AttentionSeq> s;
    std::vector<SampleKey> k;
    for (int32_t i = 0; i < kSeqs; ++i) {
      s.push_back({.q_begin = i, .q_len = 1, .kv_len = static_cast<int32_t>(seed % 7) + i, .page_table = i});
      k.push_back({.seed = seed, .position = static_cast<uint32_t>(i)});
    }
    seqs.upload(s);
    keys.upload(k);
  }
  void run(Stream* stream) const {
    Exec exec = workspace.exec();
    exec.stream = stream;
    const Tensor chosen = i32_tensor(expert.data(), kTokens, kTopK);
    cuda::router(exec, {.shape = kRouter,
                        .logits = logits.tensor(),
                        .scores = scores.tensor(),
                        .expert = chosen,
                        .weight = weight.tensor()});
    cuda::send_plan(exec, {.shape = kDispatch,
                           .expert = chosen,
                           .slot_begin = slot_begin.data(),
                           .pos = i32_tensor(pos.data(), kTokens, kTopK),
                           .source = source.data(),
                           .counts = counts.data(),
                           .header = header.data(),
                           .overflow = overflow.data()});
    cuda::arrival_plan(exec, {.shape = kDispatch,
                              .header = header.data(),
                              .room = kDispatch.capacity,
                              .arrival = arrival.data(),
                              .counts = counts.data(),
                              .rows = rows.data(),
                              .offsets = offsets.data(),
                              .segments = segments.data(),
                              .overflow = overflow.data()});
    cuda::attention(exec, {.shape = kAttention,
                           .q = q.tensor(),
                           .kv = kv.tensor(),
                           .seqs = seqs.data(),
                           .num_seqs = kSeqs,
                           .page_ids = page_ids.data(),
                           .o = o.tensor()});
    cuda::sample(exec, {.logits = vocab_logits.tensor(),
                        .params = params.data(),
                        .keys = keys.data(),
                        .token = token.data(),
                        .logp = logp.f32(),
                        .logp_sampled = logp.f32() + kSeqs});
    const auto in = [&](int64_t i) { return columns.f32() + i * kTokens; };
    const auto out = [&](int64_t i) { return losses.f32() + i * kTokens; };
    cuda::token_loss(exec, {.num_tokens = kTokens,
                            .seq_offsets = slot_begin.data(),
                            .num_seqs = 2,
                            .logp = in(0),
                            .logp_old = in(1),
                            .logp_ref = in(2),
                            .advantage = in(3),
                            .weight = in(4),
                            .ratio_level = RatioLevel::kSequence,
                            .kl = KlEstimator::kK3,
                            .dlogp = out(0),
                            .loss = out(1),
                            .kl_value = out(2),
                            .clipped = out(3)});
  }
  void expect_same(const Step& want) const {
    EXPECT_EQ(expert.download(), want.expert.download());
    EXPECT_EQ(pos.download(), want.pos.download());
    EXPECT_EQ(source.download(), want.source.download());
    EXPECT_EQ(header.download(), want.header.download());
    EXPECT_EQ(arrival.download(), want.arrival.download());
    EXPECT_EQ(offsets.download(), want.offsets.download());
    EXPECT_EQ(overflow.download(), std::vector<int32_t>{0});
    EXPECT_EQ(token.download(), want.token.download());
    EXPECT_TRUE(weight.same_bytes(want.weight) && o.same_bytes(want.o) && logp.same_bytes(want.logp) &&
                losses.same_bytes(want.losses));
  }
};

TEST(CudaCapture, ReplaysFollowTheirInputs) {
  Step step, first, second;
  first.fill(23);
  first.run(nullptr);
  second.fill(131);
  second.run(nullptr);
  EXPECT_NE(first.expert.download(), second.expert.download());
  EXPECT_NE(first.token.download(), second.token.download());

  Stream stream;
  CUDA_CHECK(cudaStreamCreateWithFlags(&stream.handle, cudaStreamNonBlocking));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  CUDA_CHECK(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeGlobal));
  step.run(&stream);
  CUDA_CHECK(cudaStreamEndCapture(stream.handle, &graph));
  size_t nodes = 0;
  CUDA_CHECK(cudaGraphGetNodes(graph, nullptr, &nodes));
  EXPECT_EQ(nodes, 6u);  // one launch for each operator
  CUDA_CHECK(cudaGraphInstantiate(&replay, graph, 0));
  for (const auto& [seed, want] : {std::pair(23, &first), std::pair(131, &second)}) {
    step.fill(static_cast<uint64_t>(seed));
    CUDA_CHECK(cudaDeviceSynchronize());
    CUDA_CHECK(cudaGraphLaunch(replay, stream.handle));
    CUDA_CHECK(cudaStreamSynchronize(stream.handle));
    step.expect_same(*want);
  }
  CUDA_CHECK(cudaGraphExecDestroy(replay));
  CUDA_CHECK(cudaGraphDestroy(graph));
  CUDA_CHECK(cudaStreamDestroy(stream.handle));
}

}  // namespace
}  // namespace contender
