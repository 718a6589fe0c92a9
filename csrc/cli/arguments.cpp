// Arguments to a Command, with CLI11. Every subcommand's help ends with examples that can be pasted.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <sstream>

#include "base/config_schema.h"
#include "base/error.h"
#include "cli/cli.h"

namespace contender {
namespace {

constexpr const char* kMpirun = "mpirun --oversubscribe --quiet -np";

struct Subcommand {
  CommandKind kind;
  const char* name;
  const char* what;
  std::vector<std::string> examples;  // without the launcher
  int np;                             // ranks of the examples; 0: runs alone
};

const std::vector<Subcommand>& subcommands() {
  static const std::vector<Subcommand> list = {
      {CommandKind::kSft,
       "sft",
       "supervised fine-tuning: the stages of kind sft",
       {"sft configs/demo.toml --set sft.steps=50", "sft configs/r1_tiny.toml --run-dir runs/cold_start"},
       2},
      {CommandKind::kTrain,
       "train",
       "every stage of the config, in order; continues an earlier run of the same directory",
       {"train configs/tiny.toml", "train configs/tiny.toml --set rl.lr=5e-4 --seed 7 --run-dir runs/seed7",
        "train configs/tiny.toml --resume"},
       4},
      {CommandKind::kEval,
       "eval",
       "accuracy of the newest checkpoint on held-out problems: mean, pass@k, maj@k",
       {"eval configs/demo.toml --set eval.samples=8",
        "eval configs/demo.toml --checkpoint runs/demo/step_390"},
       2},
      {CommandKind::kGenerate,
       "generate",
       "a conversation with any model; or completions of a config's newest checkpoint",
       {"generate --model Qwen2.5-0.5B-Instruct",
        "generate --model Qwen2.5-0.5B-Instruct --temperature 0 \"What is 37 + 85?\"",
        "generate --model runs/demo --seed 2 \"37+85=\"",
        "generate configs/demo.toml --prompt \"37+85=\" --samples 4",
        "generate configs/demo.toml --set eval.temperature=0"},
       2},
      {CommandKind::kReport,
       "report",
       "report.html with the curves of a run directory",
       {"report runs/demo"},
       0},
      {CommandKind::kDoctor,
       "doctor",
       "what this machine can run, and the mpirun line for it; checks a config",
       {"doctor", "doctor --config configs/tiny.toml --np 4"},
       0},
      {CommandKind::kPlan,
       "plan",
       "memory, traffic, time and cost of a run on any mesh, without weights or ranks",
       {"plan configs/tiny.toml --np 4",
        "plan configs/tiny.toml --np 8 --set mesh.tp=4 --set mesh.data_slots=8",
        "plan configs/v2_lite.toml --np 64 --hardware h800"},
       0},
      {CommandKind::kConvert,
       "convert",
       "a Hugging Face model of a checkpoint, of another Hugging Face model, or of a GGUF file",
       {"convert runs/demo exported", "convert runs/demo/step_390 exported --dtype f32",
        "convert DeepSeek-V3 DeepSeek-V3-bf16 --max-shard-gb 10", "convert model.gguf exported"},
       0},
      {CommandKind::kInspect,
       "inspect",
       "what a model or checkpoint holds: tensors, parameters, sizes, hash",
       {"inspect runs/demo", "inspect exported", "inspect exported/model.safetensors", "inspect model.gguf"},
       0},
      {CommandKind::kData,
       "data",
       "what prompt files hold: prompts, tasks, lengths, hash, overlap with held-out ones",
       {"data train.jsonl", "data run.toml",
        "data math.jsonl.zst code.jsonl --eval aime.jsonl --tokenizer Qwen2.5-0.5B-Instruct"},
       0},
      {CommandKind::kDemo,
       "demo",
       "train, then a closing table, summary.json and report.html",
       {"demo configs/demo.toml"},
       2},
  };
  return list;
}

std::string examples_text(const Subcommand& s) {
  std::string text = "Examples:\n";
  for (const std::string& e : s.examples) {
    const bool at_terminal = e.find(" --model ") != std::string::npos;
    const std::string launcher = s.np > 0 && !at_terminal ? fmt::format("{} {} ", kMpirun, s.np) : "";
    text += fmt::format("  {}contender {}\n", launcher, e);
  }
  return text;
}

class Parser {
 public:
  Parser() : app_("contender: GRPO training of DeepSeek-R1-style models", "contender") {
    app_.require_subcommand(1);
    app_.footer(
        "contender COMMAND --help shows a command's options and examples.\n"
        "Exit codes: 0 done, 3 stopped (resumable), 10 config, 11 no checkpoint, 12 layout, 16 hardware, 17 "
        "non-finite,\n"
        "            18 peer lost, 19 out of memory, 20 storage, 21 sandbox, 1 a bug.");
    for (const Subcommand& s : subcommands()) add_subcommand(s);
  }

  Parsed parse(const std::vector<std::string>& arguments) {
    if (arguments.empty()) return {std::nullopt, app_.help()};
    std::vector<std::string> backwards(arguments.rbegin(),
                                       arguments.rend());  // CLI11 takes them from the back
    try {
      app_.parse(backwards);
    } catch (const CLI::Success&) {
      return {std::nullopt, help_text()};
    } catch (const CLI::ParseError& e) {
      fail(ExitCode::kConfig, "{}", usage_problem(e, arguments.front()));
    }
    for (const Subcommand& s : subcommands()) {
      if (app_.got_subcommand(s.name)) command_.kind = s.kind;
    }
    if (help_config_) return {std::nullopt, config_help()};
    if (resume_) command_.run.resume = ResumeMode::kRequired;
    if (no_resume_) command_.run.resume = ResumeMode::kNever;
    const bool chats = !command_.chat.model.empty();
    if (chats) command_.chat.question = std::exchange(command_.config, {});
    const bool takes_config = (command_.runs_on_ranks() && !chats) || command_.kind == CommandKind::kPlan;
    if (command_.config.empty() && takes_config) {
      fail(ExitCode::kConfig, "{}: which config? A TOML file is needed, e.g. configs/tiny.toml",
           current()->get_name());
    }
    return {command_, ""};
  }

 private:
  void add_subcommand(const Subcommand& s) {
    CLI::App* sub = app_.add_subcommand(s.name, s.what);
    sub->footer(examples_text(s));
    if (s.kind == CommandKind::kReport) {
      sub->add_option("DIR", command_.report_dir, "run directory, with metrics.jsonl")->required();
      return;
    }
    if (s.kind == CommandKind::kConvert) return add_convert(sub);
    if (s.kind == CommandKind::kInspect) {
      sub->add_option("PATH", command_.inspect,
                      "safetensors or GGUF file, Hugging Face directory, checkpoint or run directory")
          ->required();
      return;
    }
    if (s.kind == CommandKind::kData) return add_data(sub);
    if (s.kind == CommandKind::kDoctor) {
      sub->add_option("--config", command_.config, "also check this config and show its plan");
    } else {
      const bool chat = s.kind == CommandKind::kGenerate;
      sub->add_option(chat ? "WHAT" : "CONFIG", command_.config,
                      chat ? "TOML file; with --model: the question, else it comes from stdin" : "TOML file");
    }
    add_overrides(sub);
    if (s.kind == CommandKind::kPlan || s.kind == CommandKind::kDoctor) add_plan_options(sub);
    if (s.np > 0) {
      sub->add_option("--fault", command_.faults,
                      "drill: kind@step:rank[:param], repeatable (kill@3:1, delay@0:*:2ms, ...)")
          ->type_name("SPEC")
          ->take_all()
          ->allow_extra_args(false);
    }
    if (s.kind == CommandKind::kTrain || s.kind == CommandKind::kSft || s.kind == CommandKind::kDemo)
      add_resume(sub);
    CLI::Option* checkpoint = nullptr;
    if (s.kind == CommandKind::kEval || s.kind == CommandKind::kGenerate) {
      checkpoint = sub->add_option("--checkpoint", command_.run.checkpoint,
                                   "checkpoint directory; default: the newest of run.dir");
    }
    if (s.kind == CommandKind::kGenerate) add_generate(sub, checkpoint);
  }

  void add_generate(CLI::App* sub, CLI::Option* checkpoint) {
    CLI::Option* prompt = sub->add_option("--prompt", command_.run.prompts,
                                          "what to ask, repeatable; default: held-out problems of the task")
                              ->take_all()
                              ->allow_extra_args(false);
    CLI::Option* samples = sub->add_option("--samples", command_.run.samples, "completions per prompt")
                               ->check(CLI::Range(int64_t{1}, int64_t{4095}));
    ChatOptions& c = command_.chat;
    CLI::Option* model =
        sub->add_option("--model", c.model,
                        "talk to it: Hugging Face directory, GGUF file, checkpoint or run directory")
            ->check([](const std::string& s) { return s.empty() ? "is empty" : ""; }, "PATH")
            ->excludes(prompt)
            ->excludes(samples)
            ->excludes(checkpoint);
    const auto with_model = [&](CLI::Option* o) { return o->needs(model); };
    with_model(sub->add_option("--system", c.system, "what the model is told before the first question"));
    with_model(sub->add_flag("--chat", c.talk, "a question per line of stdin, where that is no terminal"));
    with_model(sub->add_option("--ids", c.ids, "the question as token numbers; so is the answer"))
        ->delimiter(',')
        ->allow_extra_args(false);
    with_model(sub->add_option("--max-new-tokens", c.max_new_tokens, "longest answer; default: the context"))
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 24));
    with_model(sub->add_option("--context", c.context,
                               "tokens of the conversation; default: the model's, at most 16384"))
        ->check(CLI::Range(int64_t{16}, int64_t{1} << 24));
    with_model(
        sub->add_option("--temperature", c.temperature,
                        "0: greedy; default of these: generation_config.json, else 0.6 and top-p 0.95"))
        ->check(CLI::Range(0.0, 100.0));
    with_model(sub->add_option("--top-p", c.top_p, "from the likeliest tokens of this mass"))
        ->check(CLI::Range(1e-6, 1.0));
    with_model(sub->add_option("--top-k", c.top_k, "from the k likeliest tokens; 0: all"))
        ->check(CLI::Range(int64_t{0}, int64_t{1} << 24));
    with_model(sub->add_option("--min-p", c.min_p, "drop tokens below min-p x the likeliest"))
        ->check(CLI::Range(0.0, 0.999999));
  }

  void add_convert(CLI::App* sub) {
    sub->add_option("SOURCE", command_.convert.source,
                    "checkpoint, run directory (its newest checkpoint), Hugging Face directory or GGUF file")
        ->required();
    sub->add_option("TARGET", command_.convert.target, "directory to make")->required();
    sub->add_option("--dtype", command_.convert.dtype, "of the weights; default bf16")
        ->check(CLI::IsMember({"bf16", "f32"}));
    const auto set_shard = [this](const double& gb) {
      command_.convert.max_shard_bytes = static_cast<int64_t>(gb * 1e9);
    };
    sub->add_option_function<double>("--max-shard-gb", set_shard, "largest file; default 5")
        ->check(CLI::Range(1e-6, 1e6));
  }

  void add_data(CLI::App* sub) {
    sub->add_option("FILE", command_.data.files,
                    "prompt files, *.jsonl or *.jsonl.zst; or the config of a run, *.toml")
        ->required();
    sub->add_option("--eval", command_.data.eval_files, "held-out prompt files, to compare with")
        ->take_all()
        ->allow_extra_args(false);
    sub->add_option("--tokenizer", command_.data.tokenizer,
                    "model directory or tokenizer.json; default: the byte tokenizer");
  }

  void add_overrides(CLI::App* sub) {
    const auto each = [&](const char* name, const char* prefix, const char* doc) {
      const auto append = [this, prefix](const std::vector<std::string>& values) {
        for (const std::string& v : values) command_.overrides.push_back(prefix + v);
      };
      return sub->add_option_function<std::vector<std::string>>(name, append, doc)
          ->take_all()
          ->allow_extra_args(false)
          ->trigger_on_parse();
    };
    each("--set", "", "section.key=value or stage.NAME.section.key=value, repeatable; wins over the file")
        ->type_name("KEY=VALUE");
    each("--seed", "run.seed=", "short for --set run.seed=N")->type_name("N");
    each("--run-dir", "run.dir=", "short for --set run.dir=DIR")->type_name("DIR");
    each("--init",
         "model.path=", "Hugging Face directory or GGUF file to start from: short for --set model.path=PATH")
        ->type_name("PATH");
    sub->add_flag("--help-config", help_config_, "every config key: default, allowed values, meaning");
  }

  void add_plan_options(CLI::App* sub) {
    sub->add_option("--np", command_.plan.np, "ranks; default: tp x dp of the config, or 1")
        ->check(CLI::Range(1, 1 << 20));
    sub->add_option("--hardware", command_.plan.hardware, "of a rank")
        ->check(CLI::IsMember(hardware_names()));
    sub->add_option("--peak-share", command_.plan.peak_share, "share of the peak rate that is reached")
        ->check(CLI::Range(0.001, 1.0));
    sub->add_option("--mean-tokens", command_.plan.mean_new_tokens,
                    "mean completion length; default: rl.max_new_tokens")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 24));
  }

  void add_resume(CLI::App* sub) {
    CLI::Option* yes =
        sub->add_flag("--resume", resume_, "continue the run in run.dir; exit 11 when there is none");
    CLI::Option* no =
        sub->add_flag("--no-resume", no_resume_, "start over: replaces what an earlier run left in run.dir");
    yes->excludes(no);
  }

  const CLI::App* current() const {
    for (const CLI::App* sub : app_.get_subcommands()) return sub;
    return &app_;
  }
  std::string help_text() { return current() == &app_ ? app_.help() : current()->help("contender"); }

  // One line; unknown words with the nearest known one.
  std::string usage_problem(const CLI::ParseError& e, std::string first) {
    const CLI::App* sub = current();
    std::vector<std::string> known;
    if (sub == &app_) {
      for (const Subcommand& s : subcommands()) known.emplace_back(s.name);
    } else {
      for (const CLI::Option* o : sub->get_options()) {
        for (const std::string& name : o->get_lnames()) known.push_back("--" + name);
      }
    }
    if (sub != &app_) {
      const std::vector<std::string> rest = sub->remaining();
      first = rest.empty() ? "" : rest.front().substr(0, rest.front().find('='));
    }
    const bool top = sub == &app_;
    const std::string where = top ? "" : sub->get_name() + ": ";
    const std::string see = fmt::format("; see contender {}--help", top ? "" : sub->get_name() + " ");
    if (first.empty() || (top && first.starts_with("-"))) return where + e.what() + see;
    const std::string near = nearest_words(first, known);
    return fmt::format("{}unknown {} \"{}\"{}{}", where, top ? "command" : "argument", first,
                       near.empty() ? "" : fmt::format(" (did you mean {}?)", near), see);
  }

  CLI::App app_;
  Command command_;
  bool help_config_ = false, resume_ = false, no_resume_ = false;
};

}  // namespace

Parsed parse_arguments(const std::vector<std::string>& arguments) { return Parser().parse(arguments); }

}  // namespace contender
