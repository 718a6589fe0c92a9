#include "cli/cli.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "checkpoint/manifest.h"
#include "cli/machine_facts.h"
#include "cli/run_check.h"
#include "hub/model_config.h"

namespace contender {
namespace {

using Words = std::vector<std::string>;

Command command_of(const Words& arguments) {
  const Parsed p = parse_arguments(arguments);
  EXPECT_TRUE(p.command.has_value()) << p.text;
  return p.command.value_or(Command());
}

std::string problem_of(const Words& arguments) {
  try {
    parse_arguments(arguments);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kConfig);
    return e.what();
  }
  return "";
}

const Words kCommands = {"sft", "train", "eval", "generate", "report", "doctor", "plan", "demo"};

TEST(Cli, EveryCommandIsKnown) {
  for (const std::string& name : kCommands) {
    const bool no_config = name == "doctor";
    EXPECT_EQ(problem_of(no_config ? Words{name} : Words{name, "x"}), "") << name;
  }
  EXPECT_EQ(command_of({"train", "x.toml"}).kind, CommandKind::kTrain);
  EXPECT_EQ(command_of({"train", "x.toml"}).config, "x.toml");
  EXPECT_EQ(command_of({"demo", "x.toml"}).kind, CommandKind::kDemo);
  EXPECT_EQ(command_of({"report", "runs/x"}).report_dir, "runs/x");
  EXPECT_TRUE(command_of({"train", "x.toml"}).runs_on_ranks());
  EXPECT_FALSE(command_of({"plan", "x.toml"}).runs_on_ranks());
}

TEST(Cli, OptionsCommonToRuns) {
  const Command c = command_of({"train", "x.toml", "--set", "rl.lr=1e-3", "--set=run.name=a b", "--seed", "7",
                                "--run-dir", "runs/y", "--fault", "kill@3:1", "--fault", "delay@0:*:2ms"});
  EXPECT_EQ(c.overrides, (Words{"rl.lr=1e-3", "run.name=a b", "run.seed=7", "run.dir=runs/y"}));
  EXPECT_EQ(c.faults, (Words{"kill@3:1", "delay@0:*:2ms"}));
  EXPECT_EQ(c.run.resume, ResumeMode::kIfPresent);
  // An option takes one value: what follows is the config.
  EXPECT_EQ(command_of({"train", "--set", "rl.lr=1", "x.toml"}).config, "x.toml");
  EXPECT_EQ(command_of({"train", "--fault", "kill@3:1", "x.toml"}).config, "x.toml");
  EXPECT_EQ(command_of({"train", "--seed", "1", "x.toml", "--seed", "2"}).overrides,
            (Words{"run.seed=1", "run.seed=2"}));
}

TEST(Cli, Resume) {
  EXPECT_EQ(command_of({"train", "x.toml", "--resume"}).run.resume, ResumeMode::kRequired);
  EXPECT_EQ(command_of({"demo", "x.toml", "--no-resume"}).run.resume, ResumeMode::kNever);
  EXPECT_NE(problem_of({"train", "x.toml", "--resume", "--no-resume"}), "");
}

TEST(Cli, GenerateAndPlanOptions) {
  const Command g = command_of(
      {"generate", "x.toml", "--prompt", "1+2=", "--prompt", "3+4=", "--samples", "4", "--checkpoint", "c"});
  EXPECT_EQ(g.run.prompts, (Words{"1+2=", "3+4="}));
  EXPECT_EQ(g.run.samples, 4);
  EXPECT_EQ(g.run.checkpoint, "c");
  const Command chat = command_of({"generate", "--model", "m", "--ids", "1,2", "--system", "s", "--top-k",
                                   "3", "--min-p", "0.1", "--context", "64", "--seed", "4", "what?"});
  EXPECT_EQ(chat.chat.model, "m");
  EXPECT_EQ(chat.chat.question, "what?");
  EXPECT_EQ(chat.config, "");
  EXPECT_EQ(chat.chat.ids, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(chat.chat.top_k, 3);
  EXPECT_EQ(chat.chat.min_p, 0.1);
  EXPECT_EQ(chat.chat.temperature, std::nullopt);
  EXPECT_EQ(chat.chat.context, 64);
  EXPECT_EQ(chat.overrides, Words{"run.seed=4"});
  EXPECT_EQ(command_of({"generate", "x.toml"}).chat.model, "");
  const Command p = command_of(
      {"plan", "x.toml", "--np", "8", "--hardware", "h800", "--peak-share", "0.3", "--mean-tokens", "100"});
  EXPECT_EQ(p.plan.np, 8);
  EXPECT_EQ(p.plan.hardware, "h800");
  EXPECT_EQ(p.plan.peak_share, 0.3);
  EXPECT_EQ(p.plan.mean_new_tokens, 100);
}

TEST(Cli, HelpOfEveryCommandHasExamplesThatParse) {
  EXPECT_NE(parse_arguments({"--help"}).text.find("Exit codes:"), std::string::npos);
  for (const std::string& name : kCommands) {
    EXPECT_NE(parse_arguments({"--help"}).text.find("\n  " + name + " "), std::string::npos);
    const std::string help = parse_arguments({name, "--help"}).text;
    size_t at = help.find("Examples:");
    ASSERT_NE(at, std::string::npos) << help;
    int examples = 0;
    while ((at = help.find("contender " + name, at)) != std::string::npos) {
      Words words;
      std::string word;
      bool quoted = false;
      for (at += std::string("contender ").size(); help[at] != '\n'; ++at) {
        if (help[at] == '"') {
          quoted = !quoted;
        } else if (help[at] == ' ' && !quoted) {
          words.push_back(word), word = "";
        } else {
          word += help[at];
        }
      }
      words.push_back(word);
      EXPECT_EQ(problem_of(words), "") << name;
      ++examples;
    }
    EXPECT_GE(examples, 1) << name;
  }
  const Parsed keys = parse_arguments({"train", "--help-config"});
  EXPECT_FALSE(keys.command.has_value());
  EXPECT_EQ(keys.text, config_help());
}

TEST(Cli, UsageErrorsNameTheNearest) {
  EXPECT_EQ(problem_of({"trian", "x.toml"}),
            "unknown command \"trian\" (did you mean train?); see contender --help");
  EXPECT_EQ(problem_of({"train", "x.toml", "--sedd", "1"}),
            "train: unknown argument \"--sedd\" (did you mean --seed?); see contender train --help");
  EXPECT_EQ(problem_of({"train", "x.toml", "--sett=a.b=1"}),
            "train: unknown argument \"--sett\" (did you mean --set?); see contender train --help");
  EXPECT_EQ(problem_of({"train", "x.toml", "y.toml"}),
            "train: unknown argument \"y.toml\"; see contender train --help");
  EXPECT_EQ(problem_of({"train"}), "train: which config? A TOML file is needed, e.g. configs/tiny.toml");
  for (const Words& bad :
       {Words{"report"}, Words{"plan", "x.toml", "--np", "0"},
        Words{"plan", "x.toml", "--hardware", "abacus"}, Words{"train", "x.toml", "--seed"},
        Words{"generate", "x.toml", "--samples", "many"}, Words{"--frobnicate"}}) {
    const std::string problem = problem_of(bad);
    EXPECT_NE(problem, "");
    EXPECT_EQ(problem.find('\n'), std::string::npos) << problem;
  }
}

// A run of configs/tiny.toml with two ranks has left a manifest in run.dir.
TEST(Cli, LayoutsThatCannotGoOnNameTheOneThatWrote) {
  const std::string dir = testing::TempDir() + "cli_refusal";
  std::filesystem::create_directories(dir + "/step_14");
  const RunConfig written = load_config("configs/tiny.toml", {"mesh.tp=1"}, 2);
  std::ofstream(dir + "/step_14/MANIFEST.json") << manifest_text(
      {{.run_id = "a", .step = 14, .layout = {1, 2, 2, 2}, .config_hash = config_fingerprint(written)}, {}});
  const auto refusal = [&](Words words, int np) {
    words.insert(words.begin() + 1, {"configs/tiny.toml", "--run-dir", dir});
    const Command c = command_of(words);
    try {
      load_config(c.config, c.overrides, np);
    } catch (const Error& e) {
      return config_refusal(c, e, np);
    }
    return Error(ExitCode::kDone, "");
  };
  const std::string there = dir + "/step_14: written by 2 ranks (tp 1, dp 2, ep 2); this job, on ";
  const Error three = refusal({"train"}, 3), slices = refusal({"demo", "--set", "mesh.tp=8"}, 8);
  EXPECT_EQ(three.code(), ExitCode::kLayout);
  EXPECT_TRUE(std::string(three.what()).starts_with(there + "3, cannot go on from it:\nconfigs/tiny.toml:"))
      << three.what();
  EXPECT_EQ(slices.code(), ExitCode::kLayout);
  EXPECT_TRUE(std::string(slices.what()).starts_with(there + "8, cannot go on from it:\n")) << slices.what();
  EXPECT_NE(std::string(slices.what()).find("--set: mesh.tp: 8 does not divide 4"), std::string::npos)
      << slices.what();

  EXPECT_EQ(refusal({"train"}, 4).code(), ExitCode::kDone);
  for (const Words& other : {Words{"train", "--no-resume"}, Words{"eval"}, Words{"train", "--set", "rl.lr=0"},
                             Words{"train", "--seed", "9"}, Words{"train", "--run-dir", dir + "/nothing"}}) {
    const Error e = refusal(other, 3);
    EXPECT_EQ(e.code(), ExitCode::kConfig) << other.back();
    EXPECT_EQ(std::string(e.what()).find("written by"), std::string::npos) << e.what();
  }
}

TEST(Cli, MpirunLineHasWhatThisMachineNeeds) {
  MachineFacts f;
  f.cores = 8;
  EXPECT_EQ(mpirun_line(f, 4, "contender train x.toml"), "mpirun --quiet -np 4 contender train x.toml");
  f.cores = 2;
  f.root = true;
  f.seccomp = true;
  EXPECT_EQ(mpirun_line(f, 4, "contender train x.toml"),
            "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe --quiet "
            "--mca btl_vader_single_copy_mechanism none -np 4 contender train x.toml");
}

TEST(Cli, FactsOfThisMachine) {
  const MachineFacts f = read_machine_facts();
  EXPECT_GE(f.cores, 1);
  EXPECT_GT(f.memory_bytes, int64_t{1} << 28);
  EXPECT_GT(f.available_bytes, 0);
  EXPECT_LE(f.available_bytes, f.memory_bytes);
  EXPECT_GT(f.disk_free_bytes, 0);
  EXPECT_NE(f.mpi.find("MPI"), std::string::npos) << f.mpi;
  EXPECT_FALSE(f.cpu.empty());
  EXPECT_FALSE(f.gpu.empty());
}

TEST(Cli, DoctorPrintsTheLineToStartRanks) {
  const std::string text = doctor_report(command_of({"doctor", "--np", "2"}), "build/release/contender").text;
  for (const char* row : {"CPU ", "rates ", "memory ", "disk ", "MPI ", "GPU ", "run "})
    EXPECT_NE(text.find(row), std::string::npos) << row;
  EXPECT_NE(text.find("-np 2 build/release/contender train configs/tiny.toml\n"), std::string::npos) << text;
  EXPECT_NE(text.find("GFLOP/s"), std::string::npos);
}

TEST(Cli, DoctorAndPlanCheckConfigs) {
  const std::string plan =
      plan_text(command_of({"plan", "configs/tiny.toml", "--np", "4", "--hardware", "h800"}));
  for (const char* part : {"tp 2 x dp 2", "Memory", "dispatch", "reduce (world)", "Time and cost"}) {
    EXPECT_NE(plan.find(part), std::string::npos) << part;
  }
  const std::string doctor =
      doctor_report(command_of({"doctor", "--config", "configs/tiny.toml", "--np", "4"}), "contender").text;
  EXPECT_NE(doctor.find("configs/tiny.toml: no problems"), std::string::npos);
  EXPECT_NE(doctor.find("-np 4 contender train configs/tiny.toml\n"), std::string::npos);
  try {
    plan_text(command_of({"plan", "configs/tiny.toml", "--np", "3", "--set", "rl.lr=0"}));
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kConfig);
    EXPECT_NE(std::string(e.what()).find("the 3 ranks of this job"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("--set: rl.lr: 0 is out of range"), std::string::npos) << e.what();
  }
}

// Ranks and hardware that each config of the repository is for.
struct Known {
  const char* name;
  const char* np;
  const char* hardware;
  bool fits = true;
};
const std::vector<Known>& known_configs() {
  static const std::vector<Known> list = {{"demo", "2", "cpu"},
                                          {"tiny", "4", "cpu"},
                                          {"countdown", "2", "cpu"},
                                          {"r1_tiny", "2", "cpu"},
                                          {"nano", "1", "h100"},
                                          {"nano_gqa", "1", "h100"},
                                          {"smollm2_135m", "2", "cpu"},
                                          {"v2_lite", "64", "h800"},
                                          {"qwen2.5_0.5b_gsm8k", "8", "h100"},
                                          {"r1_distill_qwen_1.5b", "8", "h800"},
                                          {"r1_qwen2.5_1.5b", "8", "h800"},
                                          {"moonlight_16b", "16", "h800"},
                                          {"r1_zero_671b", "512", "h800", false}};
  return list;
}

DoctorReport doctor_of(const Known& k, Words more = {}) {
  more.insert(more.begin(), {"doctor", "--config", std::string("configs/") + k.name + ".toml", "--np", k.np,
                             "--hardware", k.hardware});
  return doctor_report(command_of(more), "contender");
}

// Whether or not weights and prompts are here: shapes, shards and memory are those of the config alone.
TEST(Cli, DoctorPassesEveryConfigOfTheRepository) {
  for (const auto& file : std::filesystem::directory_iterator("configs")) {
    if (file.path().extension() != ".toml") continue;
    const std::string name = file.path().stem();
    const auto k = std::find_if(known_configs().begin(), known_configs().end(),
                                [&](const Known& known) { return name == known.name; });
    ASSERT_NE(k, known_configs().end()) << name << " is not in the list of this test";
    const DoctorReport r = doctor_of(*k);
    EXPECT_NE(r.text.find(name + ".toml: no problems"), std::string::npos) << r.text;
    EXPECT_NE(r.text.find("Shards\n"), std::string::npos) << name;
    EXPECT_EQ(r.memory_problem.empty(), k->fits) << name << ": " << r.memory_problem;
    EXPECT_EQ(r.text.find("DOES NOT FIT") == std::string::npos, k->fits) << name;
    const std::string plan =
        plan_text(command_of({"plan", file.path(), "--np", k->np, "--hardware", k->hardware}));
    EXPECT_NE(plan.find(std::string(k->np) + " ranks"), std::string::npos) << plan;
  }
}

TEST(Cli, DoctorSaysWhatIsMissingAndHowToGetIt) {
  const DoctorReport r = doctor_of({"qwen2.5_0.5b_gsm8k", "8", "h100"}, {"--set", "model.path=nowhere"});
  EXPECT_NE(r.text.find("model      nowhere: not here yet\n"), std::string::npos) << r.text;
  EXPECT_NE(r.text.find("prompts    data/gsm8k_train.jsonl: not here yet: duckdb -c \"COPY "),
            std::string::npos)
      << r.text;
  EXPECT_NE(r.text.find("memory     fits\n"), std::string::npos) << r.text;
  EXPECT_THROW(load_config("configs/qwen2.5_0.5b_gsm8k.toml", {}, 8, read_model_config), Error);
  // Without a shape there is nothing to check.
  const std::string bare = testing::TempDir() + "bare.toml";
  std::ofstream(bare) << "[model]\npath = \"nowhere\"\n[rl]\nsteps = 1\n";
  EXPECT_THROW(doctor_report(command_of({"doctor", "--config", bare}), "contender"), Error);
}

// What is there is read as a run would read it.
TEST(Cli, DoctorReadsWhatIsThere) {
  const std::string file = testing::TempDir() + "doctor.jsonl";
  const auto write = [&](const std::string& second) {
    std::ofstream(file) << "{\"prompt\": \"1+1=\", \"answer\": \"2\"}\n" << second << "\n";
  };
  const std::string held_out = testing::TempDir() + "doctor_eval.jsonl";
  std::ofstream(held_out) << "{\"prompt\": \"3+1=\", \"answer\": \"4\"}\n";
  const auto report = [&] {
    return doctor_of({"tiny", "4", "cpu"}, {"--set", "task.name=jsonl", "--set", "task.train_files=" + file,
                                            "--set", "task.eval_files=" + held_out, "--set", "sft.steps=0"})
        .text;
  };
  write("{\"prompt\": \"2+1=\", \"answer\": \"3\"}");
  EXPECT_NE(report().find("stage rl: 2 prompts, 1 held out\n"), std::string::npos) << report();
  write("{\"prompt\": \"2+1=\"}");
  try {
    report();
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kConfig);
    EXPECT_NE(std::string(e.what()).find("doctor.jsonl:2: \"answer\" is missing"), std::string::npos)
        << e.what();
  }
}

TEST(Cli, ConfigsSayWhoTheyAre) {
  for (const Known& k : known_configs()) {
    std::vector<MissingInput> missing;
    const std::string path = std::string("configs/") + k.name + ".toml";
    const auto load = [&](const std::string& file, const Words& overrides, int np) {
      return load_config_before_files(file, overrides, np, read_model_config, missing);
    };
    const RunConfig c = load(path, {}, std::stoi(k.np));
    EXPECT_EQ(c.name, k.name);
    EXPECT_EQ(c.dir, std::string("runs/") + k.name);
    EXPECT_FALSE(c.stages.empty()) << k.name;
    // The hash of a run is that of its file: it does not change with the layout, nor by being written out.
    const std::string print = config_fingerprint(c), copy = testing::TempDir() + "copy.toml";
    EXPECT_EQ(config_fingerprint(load(path, {"mesh.tp=1", "mesh.dp=0", "mesh.ep=1", "run.dir=elsewhere"}, 1)),
              print);
    std::ofstream(copy) << config_text(c);
    EXPECT_EQ(config_fingerprint(load(copy, {}, std::stoi(k.np))), print) << k.name;
  }
  EXPECT_EQ(load_config("configs/r1_tiny.toml", {}, 2).stages.size(), 4u);
  std::string kinds;
  std::vector<MissingInput> missing;
  for (const StageConfig& s :
       load_config_before_files("configs/r1_qwen2.5_1.5b.toml", {}, 8, read_model_config, missing).stages)
    kinds += s.kind + " ";
  EXPECT_EQ(kinds, "sft rl rejection sft rl ");
}

// What its comment says would fit.
TEST(Cli, R1ZeroWithoutItsReferenceFits) {
  const DoctorReport r = doctor_of(
      {"r1_zero_671b", "512", "h200"},
      {"--set", "rl.kl_beta=0", "--set", "rl.max_new_tokens=2048", "--set", "task.max_prompt_tokens=512",
       "--set", "train.token_budget=2560", "--set", "rollout.max_tokens_per_step=2560", "--set",
       "rollout.kv_pages=2048", "--set", "model.max_position_embeddings=2560"});
  EXPECT_EQ(r.memory_problem, "");
  EXPECT_NE(r.text.find("671 G in all, 36.6 G active"), std::string::npos) << r.text;
}

// The example of `plan --help` with GPUs is about a model for GPUs, which fits them.
TEST(Cli, ThePlanForGpusFits) {
  const std::string help = parse_arguments({"plan", "--help"}).text;
  EXPECT_NE(help.find("contender plan configs/v2_lite.toml --np 64 --hardware h800\n"), std::string::npos)
      << help;
  const std::string plan =
      plan_text(command_of({"plan", "configs/v2_lite.toml", "--np", "64", "--hardware", "h800"}));
  EXPECT_NE(plan.find("15.7 G in all, 2.45 G active per token"), std::string::npos) << plan;
  EXPECT_NE(plan.find(" of 74.5 GiB"), std::string::npos) << plan;
  EXPECT_EQ(plan.find("DOES NOT FIT"), std::string::npos) << plan;
}

}  // namespace
}  // namespace contender
