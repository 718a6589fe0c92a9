#include "plan/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "model/kv_cache.h"
#include "model/params.h"
#include "model/sizes.h"
#include "model/weights.h"
#include "plan/traffic.h"
#include "plan/work.h"
#include "rollout/engine.h"

namespace contender {
namespace {

ModelConfig deepseek_v3() {
  ModelConfig m;
  m.vocab_size = 129280;
  m.hidden_size = 7168;
  m.num_hidden_layers = 61;
  m.num_attention_heads = 128;
  m.intermediate_size = 18432;
  m.max_position_embeddings = 163840;
  m.q_lora_rank = 1536;
  m.kv_lora_rank = 512;
  m.qk_nope_head_dim = 128;
  m.qk_rope_head_dim = 64;
  m.v_head_dim = 128;
  m.first_k_dense_replace = 3;
  m.n_routed_experts = 256;
  m.n_shared_experts = 1;
  m.num_experts_per_tok = 8;
  m.moe_intermediate_size = 2048;
  m.n_group = 8;
  m.topk_group = 4;
  return m;
}

RunConfig small_run() {
  RunConfig c;
  c.model.q_lora_rank = 64;
  c.model.n_routed_experts = 8;
  c.train.token_budget = 1024;
  c.rl.steps = 10;
  c.rl.prompts_per_step = 8;
  c.rl.group_size = 8;
  c.rollout.max_sequences = 64;
  c.rollout.max_tokens_per_step = 512;
  c.stages = {{"rl", "rl", c.sft, c.rl, c.task, c.reward}};
  return c;
}

const Hardware kMachine = {"test", 100e9, 20e9, 0};

Plan plan_of(const RunConfig& c, int np) { return make_plan(c, {.np = np}, kMachine); }

std::map<std::string, TrafficItem> traffic_of(const StagePlan& s, const std::string& phase) {
  std::map<std::string, TrafficItem> items;
  for (const TrafficItem& i : s.traffic) {
    if (i.phase == phase) items[i.name] = i;
  }
  return items;
}

// "671B total, 37B activated for each token" (arXiv 2412.19437, abstract); the MTP module comes on top (14B,
// section 2.2).
TEST(Plan, DeepSeekV3HasItsPublishedSize) {
  ModelConfig m = deepseek_v3();
  EXPECT_NEAR(model_size(m).total, 671.0e9, 0.002 * 671e9);
  EXPECT_NEAR(model_size(m).active, 37e9, 0.5e9 + 1);
  const double without = model_size(m).total;
  m.num_nextn_predict_layers = 1;
  EXPECT_EQ(model_size(m).total, without);
  m.n_routed_experts = 0;
  m.first_k_dense_replace = 0;
  EXPECT_EQ(model_size(m).total - model_size(m).active,
            129280.0 * 7168);  // dense: all but the embedding table
}

// 180K H800-hours per trillion tokens of pre-training at 43.7% of 989 TFLOPS by the non-causal count
// (r1_facts.md): 6 flops per active parameter and token, and attention, non-causal, twice ours.
TEST(Plan, DeepSeekV3TrainingFlopsMatchItsReportedRate) {
  ModelConfig m = deepseek_v3();
  m.max_position_embeddings = 4096;
  const ModelWork work(m);
  // The expanded form is what was trained with: 128 heads of 192 + 128 columns.
  const double attention = 61 * 2.0 * 128 * (192 + 128) * 4096;
  const double head = work.head_flops();
  ModelConfig with_mtp = m;
  with_mtp.num_nextn_predict_layers = 1;
  const double mtp = ModelWork(with_mtp).mtp_block_flops() + head + 2.0 * 128 * (192 + 128) * 4096;
  const double flops_per_token = 3 * (work.block_flops() + head + attention + mtp);
  const double seconds_per_trillion = 1e12 * flops_per_token / (0.437 * 989e12);
  EXPECT_NEAR(seconds_per_trillion / 3600, 180e3, 0.1 * 180e3);
}

TEST(Plan, WorkOfABlockIsTwoFlopsPerWeight) {
  ModelConfig m;
  m.n_routed_experts = 0;
  double weights = 0;
  for (const ParamSpec& s : param_specs(m, {})) {
    if (s.packed && s.name != "head") weights += static_cast<double>(s.numel());
  }
  const ModelWork work(m);
  EXPECT_EQ(work.block_flops(), 2 * weights);
  EXPECT_EQ(work.head_flops(), 2.0 * 272 * 128);
  EXPECT_EQ(work.head_backward_flops(), 6.0 * 272 * 128);
  // Of a sequence of three tokens 1 + 2 + 3 pairs are visible, in four layers of four heads over 48 + 32
  // columns.
  EXPECT_EQ(work.attention_flops(0, 3), 2.0 * 4 * 4 * (48 + 32) * 6);
  EXPECT_EQ(work.attention_flops(1, 3), 2.0 * 4 * 4 * (48 + 32) * 5);
  EXPECT_EQ(work.attention_backward_flops(3), 2.0 * 4 * 4 * (3 * 48 + 2 * 32) * 6);
}

class PlanMemory : public testing::TestWithParam<const char*> {};

TEST_P(PlanMemory, IsWhatTheRunAllocates) {
  for (const int np : {1, 2, 4}) {
    RunConfig c = small_run();
    c.train.precision = GetParam();
    c.mesh.tp = np > 1 && c.train.precision != "fp8" ? 2 : 1;  // whose blocks tp would cut
    c.mesh.ep = np;
    const MeshShape mesh = mesh_shape(c, np);
    const std::vector<ParamSpec> specs = param_specs(c.model, {mesh.tp, 0, mesh.ep, 0});
    const int64_t expected =
        WeightStore::bytes(specs, c, StoreRole::kTrain, mesh) +
        WeightStore::bytes(specs, c, StoreRole::kReference, mesh) + activation_bytes(c, mesh) +
        scratch_bytes(c, mesh) + workspace_bytes(c, mesh) +
        KvCache::bytes(c.model, mesh.tp, rollout_kv_pages(c), c.rollout.page_size, DType::kF32);
    const Plan plan = plan_of(c, np);
    EXPECT_EQ(plan.memory_bytes(), expected);
    for (const MemoryItem& i : plan.memory) {
      EXPECT_GT(i.bytes, 0) << i.name;
      EXPECT_FALSE(i.lowered_by.empty()) << i.name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, PlanMemory, testing::Values("bf16", "fp8"),
                         [](const auto& info) { return info.param; });

TEST(Plan, SettingsThatPromiseLessMemoryGiveIt) {
  const auto total = [](auto change) {
    RunConfig c = small_run();
    change(c);
    return plan_of(c, 4).memory_bytes();
  };
  const int64_t base = total([](RunConfig&) {});
  EXPECT_LT(total([](RunConfig& c) { c.train.token_budget = 512; }), base);
  EXPECT_LT(total([](RunConfig& c) { c.train.recompute = "full"; }), base);
  EXPECT_LT(total([](RunConfig& c) { c.train.moment_dtype = "bf16"; }), base);
  EXPECT_LT(total([](RunConfig& c) { c.rollout.max_sequences = 16; }), base);
  EXPECT_LT(total([](RunConfig& c) { c.stages[0].rl.kl_beta = 0; }), base);
}

TEST(Plan, CacheIsOfWhatTheRunMayWriteNotOfWhatTheModelCouldRead) {
  const auto cache = [](auto change) {
    RunConfig c = small_run();
    change(c);
    for (const MemoryItem& i : plan_of(c, 1).memory)
      if (i.name == "KV cache") return i.bytes;
    return int64_t{0};
  };
  const int64_t base = cache([](RunConfig&) {});
  EXPECT_GT(base, 0);
  EXPECT_EQ(cache([](RunConfig& c) { c.model.max_position_embeddings = 131072; }), base);
  EXPECT_GT(cache([](RunConfig& c) { c.stages[0].rl.max_new_tokens += 64; }), base);
}

// What ends a run at its start ends its plan.
TEST(Plan, RefusesWhatFp8ProductsDoNotTake) {
  const auto problem = [](auto change) {
    RunConfig c = small_run();
    c.train.precision = "fp8";
    change(c);
    try {
      plan_of(c, 2);
    } catch (const Error& e) {
      return fmt::format("{}: {}", static_cast<int>(e.code()), e.what());
    }
    return std::string();
  };
  EXPECT_EQ(problem([](RunConfig&) {}), "");
  EXPECT_EQ(problem([](RunConfig& c) { c.model.intermediate_size = 392; }),
            "10: train.precision = \"fp8\": layers.0.ffn.down is 128 x 392 on a rank, FP8 products want "
            "multiples of 16");
  EXPECT_NE(problem([](RunConfig& c) { c.mesh.tp = 2; }).find("blocks of 128 must not be cut; lower mesh.tp"),
            std::string::npos);
}

TEST(Plan, OneRankSendsNothing) {
  const Plan plan = plan_of(small_run(), 1);
  ASSERT_EQ(plan.stages.size(), 1u);
  EXPECT_TRUE(plan.stages[0].traffic.empty());
}

// tp = 2: of each gathered row one copy leaves its owner. All numbers by hand.
TEST(Plan, TensorParallelTraffic) {
  RunConfig c = small_run();
  c.mesh.tp = 2;
  c.stages[0].rl.kl_beta = 0;
  const Plan plan = plan_of(c, 2);
  const auto update = traffic_of(plan.stages[0], "update");
  const double samples = 64, length = 128, own = samples * length / 2,
               rounds = 2;  // 8192 tokens in 4 slots of 1024
  const double h = 128, latents = 64 + 32 + 16, layers = 4, dense = 1;
  // forward: latents per layer, FFN input per dense layer, head input; backward: dx per layer, FFN per dense
  // layer, embedding
  const double gathered = layers * latents + dense * h + h + layers * h + dense * h + h;
  EXPECT_EQ(update.at("tp_gather").bytes, own * gathered * 4);
  EXPECT_EQ(update.at("tp_gather").count, rounds * (layers + dense + 1 + layers + dense + 1));
  const double reduced = h + layers * h + dense * h + h + layers * latents + dense * h;
  EXPECT_EQ(update.at("tp_reduce").bytes, own * reduced * 4);
  EXPECT_EQ(update.at("tp_head").bytes,
            samples * 64 * 2 * 16.0);  // two slices of four floats per scored token
  EXPECT_EQ(update.at("tp_head").ranks, 2);
  EXPECT_FALSE(update.contains("dispatch"));
  const auto gen = traffic_of(plan.stages[0], "gen");
  EXPECT_EQ(gen.at("tp_logits").bytes, samples * 64 * 136 * 4.0);
  EXPECT_FALSE(traffic_of(plan.stages[0], "ref").contains("tp_gather"));
}

TEST(Plan, ExpertParallelTraffic) {
  RunConfig c = small_run();
  c.mesh.ep = 4;
  const Plan plan = plan_of(c, 4);
  const double own = 64 * 128 / 4.0, moe_layers = 3, top_k = 2, h = 128;
  const auto update = traffic_of(plan.stages[0], "update");
  for (const char* name : {"dispatch", "combine", "dispatch_grad", "combine_grad"}) {
    EXPECT_EQ(update.at(name).bytes, own * moe_layers * top_k * 0.75 * h * 4) << name;
    EXPECT_EQ(update.at(name).count, 2 * moe_layers * 2) << name;  // rounds x layers x chunks
  }
  EXPECT_EQ(traffic_of(plan.stages[0], "ref").at("dispatch").bytes, update.at("dispatch").bytes);
  EXPECT_FALSE(update.contains("reduce (edp)"));  // no two ranks hold the same expert
  c.train.precision = "fp8";  // a row of 128 codes, a scale, and 28 bytes that fill up its last 32
  const auto fp8 = traffic_of(plan_of(c, 4).stages[0], "update");
  EXPECT_EQ(fp8.at("dispatch").bytes, own * moe_layers * top_k * 0.75 * 160);
  EXPECT_EQ(fp8.at("combine").bytes, update.at("combine").bytes);
  EXPECT_TRUE(update.contains("reduce (world)"));
}

// Gradients and weights of a data-parallel run: three quarters of everything leave a rank of four, per round
// and per step.
TEST(Plan, GradientTraffic) {
  const RunConfig c = small_run();
  const auto update = traffic_of(plan_of(c, 4).stages[0], "update");
  double all = 0;
  for (const ParamSpec& s : param_specs(c.model, {})) all += static_cast<double>(s.uses * s.numel());
  double reduced = 0, gathered = 0;
  for (const auto& [name, item] : update) {
    if (name.starts_with("reduce")) reduced += item.bytes;
    if (name.starts_with("gather_weights")) gathered += item.bytes;
  }
  EXPECT_NEAR(reduced, 2 * all * 0.75 * 4, 1);  // two rounds
  EXPECT_NEAR(gathered, all * 0.75 * 4, 1);     // every use is 1 here
}

TEST(Plan, FullRecomputeRunsTheBlocksAgain) {
  RunConfig c = small_run();
  c.mesh.tp = 2;
  const Plan none = plan_of(c, 2);
  c.train.recompute = "full";
  const Plan full = plan_of(c, 2);
  EXPECT_GT(full.stages[0].update_flops, 1.2 * none.stages[0].update_flops);
  EXPECT_EQ(full.stages[0].gen_flops, none.stages[0].gen_flops);
  EXPECT_GT(traffic_of(full.stages[0], "update").at("tp_gather").bytes,
            traffic_of(none.stages[0], "update").at("tp_gather").bytes);
}

TEST(Plan, TimeAndCost) {
  RunConfig c = small_run();
  c.metrics.dollars_per_rank_hour = 3;
  const Plan one = plan_of(c, 1), four = plan_of(c, 4);
  const StagePlan& s = one.stages[0];
  EXPECT_EQ(s.generated_tokens, 64 * 64);
  EXPECT_EQ(s.trained_tokens, 64 * 128);
  EXPECT_NEAR(s.update_seconds, s.update_flops / (100e9 * 0.4), 1e-12);
  EXPECT_NEAR(four.stages[0].update_seconds, s.update_seconds / 4, 1e-12);
  EXPECT_NEAR(one.hours(), 10 * s.seconds() / 3600, 1e-12);
  EXPECT_EQ(four.dollars_per_hour, 12);
  // The update's three products of every pass are most of its work.
  const ModelWork work(c.model);
  EXPECT_GT(s.update_flops, 3 * s.trained_tokens * work.block_flops());
  EXPECT_LT(s.update_flops, 6 * s.trained_tokens * work.block_flops());
  // A machine with slow memory waits for weights and cache when it generates.
  const Plan slow = make_plan(c, {.np = 1}, {"slow", 100e9, 1e6, 0});
  EXPECT_GT(slow.stages[0].gen_seconds, 10 * s.gen_seconds);
  EXPECT_EQ(slow.stages[0].update_seconds, s.update_seconds);
  // Shorter completions than the limit.
  EXPECT_EQ(make_plan(c, {.np = 1, .mean_new_tokens = 16}, kMachine).stages[0].generated_tokens, 64 * 16);
}

TEST(Plan, RanksOfTheMesh) {
  RunConfig c = small_run();
  EXPECT_EQ(plan_ranks(c, {}), 1);
  c.mesh.tp = 2;
  c.mesh.ep = 4;
  EXPECT_EQ(plan_ranks(c, {}), 4);
  c.mesh.dp = 4;
  EXPECT_EQ(plan_ranks(c, {}), 8);
  EXPECT_EQ(plan_ranks(c, {.np = 2}), 2);
}

TEST(Plan, TablesNameWhatMatters) {
  RunConfig c = small_run();
  c.path = "x.toml";
  const PlanOptions options = {.np = 4};
  const std::vector<PlanTable> tables = plan_tables(c, options, make_plan(c, options, gpu_hardware("h800")));
  ASSERT_EQ(tables.size(), 4u);
  EXPECT_EQ(tables[0].rows[0][1], "x.toml");
  EXPECT_EQ(tables[1].rows.back()[0], "total");
  EXPECT_EQ(tables[1].rows.back()[3], "of 74.5 GiB");
  EXPECT_EQ(tables[2].title, "Collectives of one step of stage rl");
  EXPECT_EQ(tables[3].rows[1][0], "rl");
  for (const PlanTable& t : tables) {
    for (const auto& row : t.rows) EXPECT_EQ(row.size(), t.rows[0].size()) << t.title;
  }
  // A model that is too large says so.
  c.model = deepseek_v3();
  const auto large = plan_tables(c, options, make_plan(c, options, gpu_hardware("h800")));
  EXPECT_TRUE(large[1].rows.back()[3].starts_with("DOES NOT FIT"));
}

}  // namespace
}  // namespace contender
