#include "base/config.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "base/config_schema.h"
#include "base/error.h"

namespace contender {
namespace {

// A file in a directory of its own, removed at the end.
class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text) {
    char dir[] = "/tmp/config_test.XXXXXX";
    dir_ = ::mkdtemp(dir);
    path_ = dir_ + "/run.toml";
    std::ofstream(path_) << text;
  }
  ~ConfigFile() { std::filesystem::remove_all(dir_); }
  const std::string& path() const { return path_; }
  const std::string& dir() const { return dir_; }

 private:
  std::string dir_, path_;
};

using Lines = std::vector<std::string>;

// Lines of the error, the file's directory cut off; empty when the file loads.
Lines problems(const std::string& text, const Lines& overrides = {}, int np = 1) {
  const ConfigFile file(text);
  try {
    load_config(file.path(), overrides, np);
    return {};
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kConfig);
    Lines lines;
    std::istringstream in(e.what());
    for (std::string line; std::getline(in, line);) {
      const size_t at = line.find(file.dir() + "/");
      lines.push_back(at == 0 ? line.substr(file.dir().size() + 1) : line);
    }
    return lines;
  }
}

RunConfig load(const std::string& text, const Lines& overrides = {}, int np = 1) {
  const ConfigFile file(text);
  return load_config(file.path(), overrides, np);
}

const std::string kMoe = R"([model]
vocab_size = 272
n_routed_experts = 8
n_group = 2
topk_group = 1
num_experts_per_tok = 2
)";

TEST(Config, DefaultsLoadFromAnEmptyFile) {
  const RunConfig c = load("");
  EXPECT_EQ(c.model.vocab_size, 272);
  EXPECT_EQ(c.rl.group_size, 16);
  EXPECT_EQ(c.rl.kl_beta, 0.001);
  EXPECT_TRUE(c.stages.empty());
  EXPECT_TRUE(config_problems(RunConfig(), 1).empty());
}

TEST(Config, EveryValueOfAFileArrives) {
  const RunConfig c = load(R"(
[run]
name = "x"
seed = 9223372036854775807
[model]
rms_norm_eps = 1
tie_word_embeddings = false
[reward]
type = "command"
command = ["python3", "score.py", "a b"]
)");
  EXPECT_EQ(c.name, "x");
  EXPECT_EQ(c.seed, 9223372036854775807u);
  EXPECT_EQ(c.model.rms_norm_eps, 1.0);
  EXPECT_EQ(c.reward.command, (Lines{"python3", "score.py", "a b"}));
}

// Every key written with its default reads back as the default, and no key is read into another's field.
TEST(Config, DefaultsSurviveARoundTrip) {
  RunConfig defaults;
  defaults.dir = "somewhere \"else\"\\\n";  // quoting
  std::string text;
  for (const ConfigSection& s : config_sections(defaults)) {
    text += "[" + s.name + "]\n";
    for (const ConfigKey& k : s.keys) text += k.name + " = " + format_value(k.field) + "\n";
  }
  RunConfig read = load(text);
  const auto written = config_sections(defaults), got = config_sections(read);
  for (size_t i = 0; i < written.size(); ++i) {
    for (size_t j = 0; j < written[i].keys.size(); ++j) {
      EXPECT_EQ(format_value(written[i].keys[j].field), format_value(got[i].keys[j].field))
          << written[i].keys[j].name;
    }
  }
  EXPECT_EQ(config_fingerprint(defaults), config_fingerprint(read));
}

std::map<std::string, std::string> values_of(RunConfig c) {
  std::map<std::string, std::string> values;
  for (const ConfigSection& s : config_sections(c))
    for (const ConfigKey& k : s.keys) values[s.name + "." + k.name] = format_value(k.field);
  for (size_t i = 0; i < c.stages.size(); ++i)
    for (const ConfigSection& s : stage_sections(c.stages[i])) {
      const bool read = s.name != (c.stages[i].kind == "rl" ? "sft" : c.stages[i].kind == "sft" ? "rl" : "-");
      for (const ConfigKey& k : s.keys)
        if (read) values[fmt::format("{} {}.{}", i, s.name, k.name)] = format_value(k.field);
    }
  return values;
}

// The text holds what the file and the command line said together, for every stage.
TEST(Config, TextLoadsAsTheSameConfig) {
  const std::string stages = R"(
[rl]
lr = 1e-4
lr_min = 0
[[stage]]
kind = "sft"
[stage.sft]
steps = 3
[[stage]]
kind = "rejection"
name = "again"
[stage.sft]
steps = 4
[stage.rl]
temperature = 0.9
[[stage]]
kind = "rl"
[stage.rl]
steps = 5
[stage.reward]
type = "command"
command = ["a \"b\"", "c"]
)";
  for (const auto& [text, overrides] : std::vector<std::pair<std::string, Lines>>{
           {"", {}},
           {"[sft]\nsteps = 2\n[rl]\nsteps = 9\n", {"mesh.tp=2", "run.dir=a \"b\"", "stage.rl.rl.lr=2e-5"}},
           {kMoe, {"rl.steps=7", "train.adam_eps=1e-12", "metrics.trace=true"}},
           {stages,
            {"rl.lr=0.1", "stage.rl.rl.lr=3e-5", "stage.again.task.difficulty=3", "eval.top_p=0.25"}}}) {
    const RunConfig given = load(text, overrides, 0), back = load(config_text(given), {}, 0);
    EXPECT_EQ(values_of(back), values_of(given));
    EXPECT_EQ(config_fingerprint(back), config_fingerprint(given));
  }
  for (const char* name : {"demo", "tiny", "countdown", "r1_tiny"}) {
    const RunConfig given =
        load_config(fmt::format("configs/{}.toml", name), {"rl.lr=1e-5", "rl.lr_min=0"}, 4);
    EXPECT_EQ(values_of(load(config_text(given), {}, 4)), values_of(given)) << name;
  }
}

TEST(Config, EveryKeyHasADocAndAnAllowedDefault) {
  RunConfig c;
  StageConfig stage{.kind = "rl"};
  std::vector<ConfigSection> sections = config_sections(c);
  for (ConfigSection& s : stage_sections(stage)) sections.push_back(s);
  for (const ConfigSection& s : sections) {
    std::set<std::string> names;
    for (const ConfigKey& k : s.keys) {
      EXPECT_TRUE(names.insert(k.name).second) << s.name << "." << k.name;
      EXPECT_FALSE(k.doc.empty()) << s.name << "." << k.name;
      EXPECT_EQ(rule_problem(k.rule, k.field), "") << s.name << "." << k.name;
    }
  }
}

// The keys of a section cover its struct but for padding: a field without a key leaves a hole of its size.
template <class Struct>
void expect_covered(const Struct& s, const std::vector<ConfigKey>& keys) {
  const char* const begin = reinterpret_cast<const char*>(&s);
  std::map<int64_t, int64_t> fields;  // offset, size
  for (const ConfigKey& k : keys) {
    const auto [offset, size] = std::visit(
        [&](auto* f) {
          return std::pair<int64_t, int64_t>(reinterpret_cast<const char*>(f) - begin, sizeof(*f));
        },
        k.field);
    EXPECT_TRUE(fields.emplace(offset, size).second) << k.name;
  }
  int64_t end = 0;
  for (const auto& [offset, size] : fields) {
    EXPECT_EQ(offset, round_up(end, size == 1 ? 1 : 8)) << "a field without a key before offset " << offset;
    end = offset + size;
  }
  EXPECT_EQ(round_up(end, 8), static_cast<int64_t>(sizeof(Struct)));
}

TEST(Config, EveryFieldHasAKey) {
  RunConfig c;
  const std::vector<ConfigSection> s = config_sections(c);
  ASSERT_EQ(s.size(), 13u);
  expect_covered(c.model, s[1].keys);
  expect_covered(c.mesh, s[2].keys);
  expect_covered(c.train, s[3].keys);
  expect_covered(c.sft, s[4].keys);
  expect_covered(c.rl, s[5].keys);
  expect_covered(c.tokenizer, s[6].keys);
  expect_covered(c.task, s[7].keys);
  expect_covered(c.reward, s[8].keys);
  expect_covered(c.rollout, s[9].keys);
  expect_covered(c.eval, s[10].keys);
  expect_covered(c.checkpoint, s[11].keys);
  expect_covered(c.metrics, s[12].keys);
}

TEST(Config, UnknownKeysSuggestTheNearest) {
  EXPECT_EQ(problems("[rl]\ngroup_sise = 8\n"),
            Lines{"run.toml:2: rl.group_sise: unknown; did you mean rl.group_size?"});
  EXPECT_EQ(problems("[rl]\nGroup_Size = 8\n"),
            Lines{"run.toml:2: rl.Group_Size: unknown; did you mean rl.group_size?"});
  EXPECT_EQ(problems("[train]\n\nlr = 1.0\n"),
            Lines{"run.toml:3: train.lr: unknown; did you mean rl.lr or sft.lr?"});
  EXPECT_EQ(problems("[sft]\ntemprature = 1.0\n"),
            Lines{"run.toml:2: sft.temprature: unknown; did you mean eval.temperature or rl.temperature?"});
  EXPECT_EQ(problems("[rl]\nzzzzzz = 1\n"), Lines{"run.toml:2: rl.zzzzzz: unknown"});
  EXPECT_EQ(problems("[rl]\n" + std::string(100000, 'x') + " = 1\n")[0].size(),
            100000 + std::string("run.toml:2: rl.: unknown").size());
}

TEST(Config, UnknownSections) {
  EXPECT_EQ(problems("[rl]\n[chekpoint]\nevery = 1\n"),
            Lines{"run.toml:2: chekpoint: unknown section; did you mean checkpoint?"});
  EXPECT_EQ(problems("seed = 1\n"),
            Lines{"run.toml:1: seed: unknown, and outside of any section; did you mean run.seed?"});
  EXPECT_EQ(problems("rl = 3\n"), Lines{"run.toml:1: rl: is a section: write [rl] on a line of its own"});
  EXPECT_EQ(problems("[[rl]]\nlr = 1.0\n"),
            Lines{"run.toml:1: rl: is a section: write [rl] on a line of its own"});
}

TEST(Config, WrongTypes) {
  EXPECT_EQ(problems("[rl]\ngroup_size = \"8\"\n"),
            Lines{"run.toml:2: rl.group_size: expected integer, 1 to 4095, not a string"});
  EXPECT_EQ(
      problems("[rl]\ngroup_size = 8.0\n"),
      Lines{"run.toml:2: rl.group_size: expected integer, 1 to 4095, not a number with a point or exponent"});
  EXPECT_EQ(problems("[rl]\nlr = true\n"),
            Lines{"run.toml:2: rl.lr: expected number, above 0, not a boolean"});
  EXPECT_EQ(problems("[metrics]\ntrace = 1\n"),
            Lines{"run.toml:2: metrics.trace: expected true or false, not an integer"});
  EXPECT_EQ(problems("[run]\nname = [1]\n"), Lines{"run.toml:2: run.name: expected string, not a list"});
  EXPECT_EQ(problems("[reward]\ncommand = [\"a\", 1]\n"),
            Lines{"run.toml:2: reward.command: expected a list of strings, found an integer in it"});
  EXPECT_EQ(problems("[rl]\nlr = 2024-01-01\n"),
            Lines{"run.toml:2: rl.lr: expected number, above 0, not a date or time"});
}

TEST(Config, OutOfRange) {
  EXPECT_EQ(problems("[rl]\nlr = 0.0\n"), Lines{"run.toml:2: rl.lr: 0 is out of range: above 0"});
  EXPECT_EQ(problems("[rl]\nlr = nan\n"), Lines{"run.toml:2: rl.lr: nan is not a finite number"});
  EXPECT_EQ(problems("[rl]\nlr = inf\n"), Lines{"run.toml:2: rl.lr: inf is not a finite number"});
  EXPECT_EQ(problems("[rl]\ngroup_size = 0\n"),
            Lines{"run.toml:2: rl.group_size: 0 is out of range: 1 to 4095"});
  EXPECT_EQ(problems("[rl]\ntop_p = 1.5\n"),
            Lines{"run.toml:2: rl.top_p: 1.5 is out of range: above 0, at most 1"});
  EXPECT_EQ(problems("[run]\nseed = -1\n"), Lines{"run.toml:2: run.seed: -1 is negative"});
  EXPECT_EQ(problems("[rollout]\npage_size = 24\n"),
            Lines{"run.toml:2: rollout.page_size: 24 is out of range: at least 16, a multiple of 16"});
  EXPECT_EQ(problems("[model]\nnum_nextn_predict_layers = 2\n"),
            Lines{"run.toml:2: model.num_nextn_predict_layers: 2 is out of range: 0 to 1"});
}

TEST(Config, BadWordsListTheGoodOnes) {
  EXPECT_EQ(problems("[rl]\nalgorithm = \"gpro\"\n"),
            Lines{"run.toml:2: rl.algorithm: \"gpro\" is not one of grpo, dr_grpo, dapo, gspo, rloo, cispo "
                  "(did you mean grpo?)"});
  EXPECT_EQ(problems("[run]\ndevice = \"quantum\"\n"),
            Lines{"run.toml:2: run.device: \"quantum\" is not one of auto, cpu, cuda"});
}

TEST(Config, SyntaxAndDuplicates) {
  const Lines syntax = problems("[rl]\nlr = = 2\n");
  ASSERT_EQ(syntax.size(), 1u);
  EXPECT_TRUE(syntax[0].starts_with("run.toml:2: syntax error: ")) << syntax[0];
  const Lines key = problems("[rl]\nlr = 1.0\n\nlr = 2.0\n");
  ASSERT_EQ(key.size(), 1u);
  EXPECT_TRUE(key[0].starts_with("run.toml:4: syntax error: ")) << key[0];
  const Lines section = problems("[rl]\nlr = 1.0\n[sft]\n[rl]\n");
  ASSERT_EQ(section.size(), 1u);
  EXPECT_TRUE(section[0].starts_with("run.toml:4: syntax error: ")) << section[0];
  const Lines utf8 = problems("[run]\nname = \"\xff\"\n");
  ASSERT_EQ(utf8.size(), 1u);
  EXPECT_TRUE(utf8[0].starts_with("run.toml:2: syntax error: ")) << utf8[0];
  EXPECT_EQ(problems("[run]\nname = \"a\"\n\n[$]\nseed = 1\n"), Lines{"run.toml:4: syntax error"});
  const Lines letter = problems("[run]\nnam\u00e9 = \"a\"\n");
  ASSERT_EQ(letter.size(), 1u);
  EXPECT_TRUE(letter[0].starts_with("run.toml:2: syntax error: ")) << letter[0];
}

TEST(Config, MissingFile) {
  for (const char* path : {"/nonexistent/run.toml", "/tmp"}) {
    try {
      load_config(path, {}, 1);
      FAIL();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kConfig);
      const std::string reason = std::string(path) == "/tmp" ? "Is a directory" : "No such file or directory";
      EXPECT_EQ(std::string(e.what()), std::string(path) + ": cannot read the file: " + reason);
    }
  }
}

TEST(Config, EveryProblemAtOnceInOrderAndFast) {
  const auto start = std::chrono::steady_clock::now();
  const Lines lines = problems(R"([rl]
group_size = 1
algoritm = "grpo"
lr = "fast"
[modle]
x = 1
[mesh]
data_slots = 3
tp = 3
[model]
n_routed_experts = 8
num_experts_per_tok = 9
qk_rope_head_dim = 15
)",
                               {"rl.kl_beta=-1", "rl.kl_betta=0"}, 2);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(lines, (Lines{
                       "run.toml:2: rl.group_size: 1 with grpo: advantages are divided by the group's "
                       "standard deviation; use 2 or more",
                       "run.toml:3: rl.algoritm: unknown; did you mean rl.algorithm?",
                       "run.toml:4: rl.lr: expected number, above 0, not a string",
                       "run.toml:5: modle: unknown section; did you mean model?",
                       "run.toml:8: mesh.data_slots: 3 is not a power of two",
                       "run.toml:9: mesh.tp: 3 does not divide 4, the largest of 4, 2, 1 that divides "
                       "num_attention_heads = 4, "
                       "intermediate_size = 384, vocab_size = 272",
                       "run.toml:9: mesh.tp: 3 does not divide the 2 ranks of this job",
                       "run.toml:12: model.num_experts_per_tok: 9 is more than n_routed_experts = 8",
                       "run.toml:13: model.qk_rope_head_dim: 15 is odd; RoPE turns pairs of columns",
                       "--set: rl.kl_betta: unknown; did you mean rl.kl_beta?",
                       "--set: rl.kl_beta: -1 is out of range: at least 0",
                   }));
  EXPECT_LT(seconds.count(), 0.5);
}

TEST(Config, LayoutOfTheMesh) {
  EXPECT_EQ(
      problems("[mesh]\ntp = 2\ndp = 2\n", {}, 2),
      Lines{
          "run.toml:3: mesh.dp: tp x dp = 2 x 2 = 4, but the job has 2 ranks (dp = 0 takes what is there)"});
  EXPECT_TRUE(problems("[mesh]\ntp = 2\ndp = 2\n", {}, 4).empty());
  EXPECT_TRUE(problems("[mesh]\ntp = 2\n", {}, 4).empty());
  EXPECT_TRUE(problems("[mesh]\ntp = 2\ndp = 2\n", {}, 0).empty());
  EXPECT_EQ(problems("[mesh]\ndp = 3\ndata_slots = 8\n", {}, 0),
            (Lines{"run.toml:2: mesh.dp: 3 is not a power of two",
                   "run.toml:3: mesh.data_slots: the job has 3 ranks; their number must be a power of two"}));
  EXPECT_EQ(problems("[mesh]\ndata_slots = 2\n", {}, 4),
            Lines{"run.toml:2: mesh.data_slots: 2 is not a multiple of the 4 ranks of this job"});
  EXPECT_EQ(problems("", {}, 8),
            Lines{"run.toml:1: mesh.data_slots (default): 4 is not a multiple of the 8 ranks of this job"});
  EXPECT_EQ(problems("[mesh]\ntp = 1\n", {}, 8),
            Lines{"run.toml:1: mesh.data_slots (default): 4 is not a multiple of the 8 ranks of this job"});
  EXPECT_EQ(problems("[mesh]\nep = 4\n", {}, 4),
            Lines{"run.toml:2: mesh.ep: 4 with a model that has no experts"});
  EXPECT_EQ(problems(kMoe + "[mesh]\nep = 16\ndata_slots = 16\n", {}, 16),
            Lines{"run.toml:8: mesh.ep: 16 does not divide n_routed_experts = 8"});
  EXPECT_EQ(problems(kMoe + "[mesh]\nep = 4\n", {}, 2),
            Lines{"run.toml:8: mesh.ep: 4 does not divide the 2 ranks of this job"});
  EXPECT_TRUE(problems(kMoe + "[mesh]\nep = 4\ntp = 2\n", {}, 4).empty());
}

TEST(Config, TensorParallelNeedsEverySlicedDimension) {
  ModelConfig m;
  EXPECT_EQ(virtual_slices(m), 4);
  m.num_attention_heads = 6;
  EXPECT_EQ(virtual_slices(m), 2);
  m.intermediate_size = 385;
  EXPECT_EQ(virtual_slices(m), 1);
  m = {};
  m.family = "gqa";
  EXPECT_EQ(virtual_slices(m), 2);  // 2 key/value heads
  EXPECT_EQ(problems("[model]\nfamily = \"gqa\"\nnum_key_value_heads = 1\n[mesh]\ntp = 2\n", {}, 2),
            Lines{"run.toml:5: mesh.tp: 2 does not divide 1, the largest of 4, 2, 1 that divides "
                  "num_attention_heads = 4, "
                  "intermediate_size = 384, vocab_size = 272, num_key_value_heads = 1"});
}

TEST(Config, ShapesOfTheModel) {
  EXPECT_EQ(problems("[model]\nvocab_size = 256\n"),
            Lines{"run.toml:2: model.vocab_size: 256 is less than the tokenizer's 264 tokens"});
  EXPECT_EQ(problems(kMoe + "[mesh]\n", {"model.n_group=3"}),
            Lines{"--set: model.n_group: 3 does not divide n_routed_experts = 8"});
  EXPECT_EQ(
      problems(kMoe, {"model.n_group=8"}),
      (Lines{"run.toml:6: model.num_experts_per_tok: 2 is more than the 1 experts of topk_group = 1 groups",
             "--set: model.n_group: 8 groups of 8 experts leave one in a group; noaux_tc scores a group by "
             "its top 2"}));
  EXPECT_EQ(problems(kMoe, {"model.topk_group=3"}),
            Lines{"--set: model.topk_group: 3 is more than n_group = 2"});
  EXPECT_EQ(problems("[model]\nn_routed_experts = 8\nfirst_k_dense_replace = 4\n"),
            Lines{"run.toml:3: model.first_k_dense_replace: 4 of 4 layers are dense: none is left for the 8 "
                  "experts"});
  EXPECT_EQ(problems("[model]\ntie_word_embeddings = true\nqk_norm = true\n"),
            (Lines{"run.toml:2: model.tie_word_embeddings: only the family gqa has it",
                   "run.toml:3: model.qk_norm: only the family gqa has it"}));
  EXPECT_EQ(problems("[model]\nfamily = \"gqa\"\nhead_dim = 31\nnum_key_value_heads = "
                     "3\nnum_nextn_predict_layers = 1\n"),
            (Lines{"run.toml:3: model.head_dim: 31 is odd; RoPE turns pairs of columns",
                   "run.toml:4: model.num_key_value_heads: 3 does not divide num_attention_heads = 4",
                   "run.toml:5: model.num_nextn_predict_layers: only the family deepseek_v3 has it; here it "
                   "must be 0"}));
  EXPECT_EQ(problems("[model]\nrope_factor = 2.0\nrope_original_max_position = 64\n"),
            Lines{"run.toml:2: model.max_position_embeddings: 256 is beyond rope_factor x "
                  "rope_original_max_position = 128"});
}

TEST(Config, LengthsFitEverywhere) {
  EXPECT_EQ(
      problems("[rl]\nmax_new_tokens = 200\n"),
      Lines{"run.toml:2: rl.max_new_tokens: max_prompt_tokens + max_new_tokens = 64 + 200 = 264 is beyond "
            "model.max_position_embeddings = 256"});
  EXPECT_EQ(
      problems("[train]\ntoken_budget = 100\n[rollout]\nkv_pages = 4\nmax_tokens_per_step = 32\n"),
      (Lines{"run.toml:2: train.token_budget: max_prompt_tokens + max_new_tokens = 64 + 64 = 128 is beyond "
             "train.token_budget = 100",
             "run.toml:4: rollout.kv_pages: max_prompt_tokens + max_new_tokens = 64 + 64 = 128 is beyond "
             "rollout.kv_pages x page_size = 64",
             "run.toml:5: rollout.max_tokens_per_step: 32 is less than task.max_prompt_tokens = 64"}));
}

TEST(Config, RecipesThatCannotWork) {
  EXPECT_EQ(
      problems("[rl]\ngroup_size = 1\nalgorithm = \"rloo\"\n"),
      Lines{"run.toml:2: rl.group_size: 1 with rloo: the baseline is the mean of the others; use 2 or more"});
  EXPECT_EQ(problems("[rl]\nlr = 1e-6\n"), Lines{"run.toml:2: rl.lr_min: 3e-06 is above rl.lr = 1e-06"});
  EXPECT_EQ(problems("[sft]\nstop_at_accuracy = 0.3\n"),
            Lines{"run.toml:2: sft.stop_at_accuracy: without sft.eval_every nothing measures it"});
  EXPECT_EQ(problems("[rl]\noverlong_buffer = 65\n"),
            Lines{"run.toml:2: rl.overlong_buffer: 65 is more than max_new_tokens = 64"});
  EXPECT_EQ(problems("[rl]\nmax_staleness = 1\nsteps_per_rollout = 4\n"),
            Lines{"run.toml:2: rl.max_staleness: 1 is less than the 4 updates (steps_per_rollout x "
                  "inner_epochs) that "
                  "the next rollout waits for: nothing could run ahead"});
  EXPECT_EQ(problems("[rl]\nmtp_loss_weight = 0.1\n"),
            Lines{"run.toml:2: rl.mtp_loss_weight: the model has no MTP module"});
  EXPECT_EQ(problems("[eval]\nproblems = 513\n"),
            Lines{"run.toml:2: eval.problems: 513 is more than task.eval_problems = 512"});
  EXPECT_EQ(problems("[checkpoint]\nevery = 4\nkeep_every = 6\n"),
            Lines{"run.toml:3: checkpoint.keep_every: 6 is not a multiple of checkpoint.every = 4"});
}

TEST(Config, TaskAndRewardFilesAndPrograms) {
  EXPECT_EQ(problems("[task]\nname = \"jsonl\"\ntrain_files = [\"/nonexistent\"]\n"),
            (Lines{"run.toml:2: task.eval_files: the task jsonl needs it",
                   "run.toml:3: task.train_files: there is no file \"/nonexistent\""}));
  EXPECT_EQ(problems("[task]\ntrain_files = \"a\"\n"),
            Lines{"run.toml:2: task.train_files: only the task jsonl reads it, this one is addition"});
  EXPECT_EQ(problems("[task]\nprompt_form = \"{prompt} Box it.\"\n"),
            Lines{"run.toml:2: task.prompt_form: only the task jsonl reads it, this one is addition"});
  for (const char* form : {"Box it.", "{prompt} {prompt}", ""})
    EXPECT_EQ(
        problems(fmt::format("[task]\nprompt_form = \"{}\"\n", form)),
        Lines{"run.toml:2: task.prompt_form: it must hold {prompt} once, where a line's \"prompt\" stands"});
  EXPECT_EQ(problems("[task]\nname = \"countdown\"\ndifficulty = 1\n"),
            Lines{"run.toml:3: task.difficulty: countdown needs at least 2 numbers, not 1"});
  EXPECT_EQ(problems("[reward]\ntype = \"command\"\n"),
            Lines{"run.toml:2: reward.command: the reward command needs a program"});
  EXPECT_EQ(problems("[reward]\ncommand = [\"x\"]\n"),
            Lines{"run.toml:2: reward.command: only the reward type command reads it"});
  EXPECT_EQ(
      problems("[reward]\naccuracy_weight = 0\nformat_weight = 0\n"),
      Lines{"run.toml:2: reward.accuracy_weight: every weight is 0: no completion would earn anything"});
}

TEST(Config, StagesInheritAndOverride) {
  const RunConfig c = load(R"(
[sft]
batch_size = 8
[rl]
temperature = 0.9
group_size = 4
[[stage]]
kind = "sft"
name = "cold_start"
[stage.sft]
steps = 3
[[stage]]
kind = "rl"
[stage.rl]
steps = 5
temperature = 0.7
[stage.reward]
language_weight = 1
[stage.task]
difficulty = 3
)");
  ASSERT_EQ(c.stages.size(), 2u);
  EXPECT_EQ(c.stages[0].name, "cold_start");
  EXPECT_EQ(c.stages[0].sft.steps, 3);
  EXPECT_EQ(c.stages[0].sft.batch_size, 8);
  EXPECT_EQ(c.stages[0].rl.temperature, 0.9);
  EXPECT_EQ(c.stages[1].name, "rl");
  EXPECT_EQ(c.stages[1].rl.steps, 5);
  EXPECT_EQ(c.stages[1].rl.temperature, 0.7);
  EXPECT_EQ(c.stages[1].rl.group_size, 4);
  EXPECT_EQ(c.stages[1].reward.language_weight, 1.0);
  EXPECT_EQ(c.stages[1].task.difficulty, 3);
  EXPECT_EQ(c.rl.temperature, 0.9);
  EXPECT_EQ(c.task.difficulty, 2);
}

TEST(Config, WithoutStagesStepsMakeThem) {
  const auto kinds = [](const RunConfig& c) {
    Lines list;
    for (const StageConfig& s : c.stages) list.push_back(s.kind + "/" + s.name);
    return list;
  };
  EXPECT_EQ(kinds(load("[sft]\nsteps = 1\n[rl]\nsteps = 1\n")), (Lines{"sft/sft", "rl/rl"}));
  EXPECT_EQ(kinds(load("[rl]\nsteps = 1\n")), Lines{"rl/rl"});
  EXPECT_EQ(kinds(load("[rl]\nsteps = 1\n", {"rl.steps=0"})), Lines{});
  EXPECT_EQ(kinds(load("", {"sft.steps=2"})), Lines{"sft/sft"});
}

TEST(Config, ProblemsOfStages) {
  EXPECT_EQ(problems("[[stage]]\nname = \"a\"\n[stage.rl]\nsteps = 1\n"),
            Lines{"run.toml:1: stage.a.kind: missing: sft, rl or rejection"});
  EXPECT_EQ(problems("[[stage]]\nkind = \"ppo\"\n"),
            Lines{"run.toml:2: stage.ppo.kind: \"ppo\" is not one of sft, rl, rejection"});
  EXPECT_EQ(problems("[[stage]]\nkind = \"rl\"\nsteps = 4\n[stage.rl]\nsteps = 4\n"),
            Lines{"run.toml:3: stage.rl.steps: unknown; did you mean stage.rl.steps or stage.sft.steps?"});
  EXPECT_EQ(problems("[[stage]]\nkind = \"rl\"\nname = \"a\"\n[stage.rl]\nsteps = 4\ngroup_sise = 2\n"),
            Lines{"run.toml:6: stage.a.rl.group_sise: unknown; did you mean stage.rl.group_size?"});
  EXPECT_EQ(problems("[[stage]]\nkind = \"sft\"\nname = \"a\"\n[stage.sft]\nsteps = 4\n[stage.rl]\n"),
            Lines{"run.toml:6: stage.a.rl: a stage of kind sft does not read it"});
  EXPECT_EQ(
      problems(
          "[[stage]]\nkind = \"sft\"\n\n[[stage]]\nkind = \"rl\"\n[stage.rl]\nsteps = 2\ngroup_size = 1\n"),
      (Lines{"run.toml:2: sft.steps: the stage \"sft\" has no steps",
             "run.toml:8: stage.rl.rl.group_size: 1 with grpo: advantages are divided by the group's "
             "standard deviation; "
             "use 2 or more"}));
  EXPECT_EQ(problems("[sft]\nsteps = 1\n[[stage]]\nkind = \"sft\"\n[[stage]]\nkind = \"sft\"\n"),
            Lines{"run.toml:3: stage.sft.name (default): two stages have this name"});
  EXPECT_EQ(problems("[stage]\nkind = \"rl\"\n"),
            Lines{"run.toml:1: stage: is a list of tables: write [[stage]]"});
  // What stages share is said once, where it was written.
  EXPECT_EQ(problems("[rl]\nsteps = 1\ntop_k = 1000\n[[stage]]\nkind = \"rl\"\nname = \"a\"\n[[stage]]\nkind "
                     "= \"rl\"\nname = \"b\"\n"),
            Lines{"run.toml:3: rl.top_k: 1000 is more than vocab_size = 272"});
}

TEST(Config, OverridesWinAndTheLastOneMost) {
  const std::string text = "[rl]\nlr = 1e-3\nsteps = 9\n[run]\nname = \"a\"\n";
  const RunConfig c =
      load(text, {"rl.lr=2e-3", "rl.lr=4e-3", "run.name=b-c/d", "run.dir=2024", "rl.dynamic_sampling=true",
                  "reward.type=command", "reward.command=[\"a\", \"b c\"]", "rl.kl_beta=0"});
  EXPECT_EQ(c.rl.lr, 4e-3);
  EXPECT_EQ(c.stages.at(0).rl.lr, 4e-3);
  EXPECT_EQ(c.name, "b-c/d");
  EXPECT_EQ(c.dir, "2024");
  EXPECT_TRUE(c.rl.dynamic_sampling);
  EXPECT_EQ(c.reward.command, (Lines{"a", "b c"}));
  EXPECT_EQ(c.rl.kl_beta, 0.0);
  EXPECT_EQ(load("", {"run.name=\"quoted = #1\""}).name, "quoted = #1");
}

TEST(Config, OverridesReachStages) {
  const std::string text =
      "[rl]\nsteps = 9\n[[stage]]\nkind = \"rl\"\nname = \"a\"\n[stage.rl]\nsteps = 4\n[[stage]]\nkind = "
      "\"rl\"\nname = \"b\"\n";
  const RunConfig both = load(text, {"rl.steps=2"});
  EXPECT_EQ(both.stages[0].rl.steps, 2);
  EXPECT_EQ(both.stages[1].rl.steps, 2);
  const RunConfig one = load(text, {"stage.a.rl.steps=1", "rl.steps=2"});
  EXPECT_EQ(one.stages[0].rl.steps, 1);
  EXPECT_EQ(one.stages[1].rl.steps, 2);
  EXPECT_EQ(problems(text, {"stage.c.rl.steps=1"}),
            Lines{"--set: stage.c.rl.steps: there is no such stage; the stages are a, b"});
  EXPECT_EQ(problems(text, {"rl.group_size=1"}),
            Lines{"--set: rl.group_size: 1 with grpo: advantages are divided by the group's standard "
                  "deviation; use 2 or more"});
}

TEST(Config, BadOverrides) {
  EXPECT_EQ(problems("", {"rl.lr"}), Lines{"--set: \"rl.lr\" is not section.key=value"});
  EXPECT_EQ(problems("", {"seed=1"}),
            Lines{"--set: \"seed=1\" is not section.key=value; did you mean run.seed?"});
  EXPECT_EQ(problems("", {"rl.lr=fast"}), Lines{"--set: rl.lr: expected number, above 0, not a string"});
  EXPECT_EQ(problems("", {"rl.lr=1\n[model]\nhidden_size=2"}),
            Lines{"--set: rl.lr: expected number, above 0, not a string"});
  EXPECT_EQ(problems("", {"r1.lr=1"}), Lines{"--set: r1.lr: unknown; did you mean rl.lr or sft.lr?"});
  EXPECT_EQ(problems("", {"rl.lr="}), Lines{"--set: rl.lr: expected number, above 0, not a string"});
  // Problems of a file with a syntax error and of the overrides come together.
  EXPECT_EQ(problems("[", {"rl.x=1"}).size(), 2u);
}

TEST(Config, FingerprintSeesNumbersAndNothingElse) {
  const std::string base = config_fingerprint(load("[rl]\nsteps = 9\n"));
  for (const char* same : {"run.name=x", "run.dir=y", "run.device=cpu", "mesh.tp=2", "mesh.dp=1",
                           "mesh.moe_chunks=4", "mesh.capacity_factor=2.0", "checkpoint.every=5",
                           "metrics.trace=true", "train.watchdog_seconds=3", "train.recompute=full",
                           "eval.every=3", "rl.verify_logp_every=1", "rollout.max_sequences=8", "sft.lr=1"}) {
    EXPECT_EQ(config_fingerprint(load("[rl]\nsteps = 9\n", {same}, 0)), base) << same;
  }
  for (const char* other :
       {"run.seed=2", "model.hidden_size=64", "mesh.data_slots=8", "train.token_budget=512", "rl.steps=8",
        "rl.lr=1e-5", "task.difficulty=3", "reward.format_weight=0.5", "sft.steps=1"}) {
    EXPECT_NE(config_fingerprint(load("[rl]\nsteps = 9\n", {other}, 0)), base) << other;
  }
}

TEST(Config, HelpNamesEveryKey) {
  const std::string help = config_help();
  RunConfig c;
  StageConfig stage;
  size_t at = 0;
  const auto expect_in_order = [&](const ConfigSection& s, const std::string& header) {
    at = help.find("\n" + header + "  ", at);
    ASSERT_NE(at, std::string::npos) << header;
    for (const ConfigKey& k : s.keys) {
      at = help.find("\n  " + k.name + " ", at);
      ASSERT_NE(at, std::string::npos) << s.name << "." << k.name;
      const std::string line = help.substr(at + 1, help.find('\n', at + 1) - at - 1);
      EXPECT_NE(line.find(" " + format_value(k.field) + " "), std::string::npos) << line;
      EXPECT_NE(line.find(k.doc), std::string::npos) << line;
      EXPECT_NE(line.find("[" + allowed_text(k) + "]"), std::string::npos) << line;
    }
  };
  for (const ConfigSection& s : config_sections(c)) expect_in_order(s, "[" + s.name + "]");
  expect_in_order(stage_sections(stage)[0], "[[stage]]");
  EXPECT_NE(help.find("{0.001}"), std::string::npos);  // kl_beta of R1-Zero
}

TEST(Config, EditDistance) {
  EXPECT_EQ(edit_distance("lr", "lr"), 0);
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("gpro", "grpo"), 1);  // a swap
  EXPECT_EQ(nearest_words("addtion", {"addition", "countdown"}), "addition");
  EXPECT_EQ(nearest_words("xyz", {"addition", "countdown"}), "");
}

}  // namespace
}  // namespace contender
