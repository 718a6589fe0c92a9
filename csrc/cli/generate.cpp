// A conversation: one sequence at a time, shown as it is drawn. Rank 0 reads, writes and decides; what is to
// be answered it tells the others, who draw the same tokens.
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <thread>

#include "base/log.h"
#include "base/timer.h"
#include "checkpoint/checkpoint.h"
#include "cli/chat.h"
#include "cli/machine_facts.h"
#include "cli/terminal.h"
#include "grpo/run.h"
#include "hub/load.h"
#include "model/kv_cache.h"
#include "model/sizes.h"
#include "plan/plan.h"
#include "report/text.h"

namespace contender {
namespace {

constexpr int64_t kSmallestContext = 64;
constexpr int64_t kRoomForAnswer = 256;     // tokens that no question and no history takes
constexpr uint32_t kStepKey = 0x40000000u;  // as in Trainer::generate

bool blank(const std::string& text) { return text.find_first_not_of(" \t\r\n") == std::string::npos; }

// ---- memory ----

int64_t bytes_needed(const RunConfig& c, const MeshShape& mesh) {
  const std::vector<ParamSpec> specs = param_specs(c.model, {mesh.tp, 0, mesh.ep, 0});
  return WeightStore::bytes(specs, c, StoreRole::kReference, mesh) + activation_bytes(c, mesh) +
         scratch_bytes(c, mesh) + workspace_bytes(c, mesh) +
         KvCache::bytes(c.model, mesh.tp, rollout_kv_pages(c), c.rollout.page_size, activation_dtype(c));
}

std::string memory_text(int64_t bytes) {
  const double mib = static_cast<double>(bytes) / (1 << 20);
  return mib < 1024 ? fmt::format("{:.1f} MiB", mib) : fmt::format("{:.1f} GiB", mib / 1024);
}

// Positions, and a KV cache of one sequence.
void set_context(RunConfig& c, int64_t tokens) {
  c.model.max_position_embeddings = tokens;
  c.rollout.kv_pages = ceil_div(tokens, c.rollout.page_size) + 1;
}

// Halves the context until a rank's part fits into what is free. Returns "" or why it is not the model's own.
std::string fit_context(const ChatOptions& o, const MeshShape& mesh, int64_t available, RunConfig& c) {
  const int64_t of_model = c.model.max_position_embeddings;
  if (o.context > of_model)
    fail(ExitCode::kConfig, "--context: {} is more than the model's {}", o.context, of_model);
  const int64_t wanted = std::min(of_model, o.context > 0 ? o.context : kUsualContext);
  int64_t context = wanted;
  set_context(c, context);
  while (bytes_needed(c, mesh) > available && context > kSmallestContext)
    set_context(c, context = std::max(kSmallestContext, context / 2));
  if (const int64_t needed = bytes_needed(c, mesh); needed > available)
    fail(
        ExitCode::kOutOfMemory,
        "out of memory: a rank needs {} for a context of {} tokens, {} are free for it; more ranks share the "
        "weights (mpirun -np), another machine has more",
        memory_text(needed), context, memory_text(available));
  if (context < wanted)
    return fmt::format(" of {}: memory, {} free of which it takes {}", of_model, memory_text(available),
                       memory_text(bytes_needed(c, mesh)));
  return wanted < of_model && o.context == 0 ? fmt::format(" of {}, --context for more", of_model) : "";
}

// ---- what is asked, and the answer ----

struct Turn {
  std::vector<int32_t> prompt;  // empty: the conversation is over
  int32_t max_new_tokens = 0;
};

// For the other ranks.
std::string pack(const Turn& t) {
  std::vector<int32_t> values = t.prompt;
  values.push_back(t.max_new_tokens);
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(int32_t)};
}
Turn unpack(const std::string& bytes) {
  Turn t;
  t.prompt.resize(bytes.size() / sizeof(int32_t));
  std::memcpy(t.prompt.data(), bytes.data(), bytes.size());
  t.max_new_tokens = t.prompt.back();
  t.prompt.pop_back();
  return t;
}

struct Answer {
  Completion completion;
  double first_token_seconds = 0, seconds = 0;
};

class Chat {
 public:
  Chat(const ChatModel& chat, const ChatOptions& options, const Backend& backend);
  int run();

 private:
  void load_weights();
  bool leader() const { return machine_->mesh->rank() == 0; }
  std::string from_leader(const std::string& text) {
    return machine_->mesh->world().all_gather_bytes("chat", text)[0];
  }
  Turn next_turn();
  std::optional<Turn> poll_turn();
  std::optional<Turn> turn_of(const std::string& question);
  Answer answer(const Turn& turn);
  void show_new(const std::vector<int32_t>& tokens);
  void finish(const Turn& turn, const Answer& a);

  const ChatModel& chat_;
  const ChatOptions& options_;
  RunConfig config_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<WeightStore> weights_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<RolloutEngine> engine_;
  std::vector<int32_t> stops_;
  int64_t turns_ = 0;
  // Of rank 0.
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Conversation> conversation_;
  std::unique_ptr<QuestionReader> input_;
  std::unique_ptr<StreamDecoder> decoder_;
  std::unique_ptr<ThoughtPainter> painter_;
  bool at_terminal_ = false, talks_ = false, prompted_ = false, thought_open_ = false;
  size_t shown_ = 0;    // tokens of the answer
  std::string answer_;  // their text
};

Chat::Chat(const ChatModel& chat, const ChatOptions& options, const Backend& backend)
    : chat_(chat), options_(options), config_(chat.config) {
  std::unique_ptr<Device> device = backend.make_device();
  const int np = launcher_info().size;
  const MeshShape shape = mesh_shape(config_, np);
  // Ranks on a CPU share its memory, with whatever else is running.
  const int64_t available = device->host_memory()
                                ? std::min(read_machine_facts().available_bytes, device->memory_bytes()) / np
                                : device->memory_bytes();
  RunConfig fitted = config_;
  std::string why;
  if (launcher_info().rank == 0) {
    why = fit_context(options, shape, available / 10 * 9, fitted);
    if (options.ids.empty()) {
      tokenizer_ = open_tokenizer(config_);
      conversation_ = std::make_unique<Conversation>(*tokenizer_, options.system);
    }
  }
  const std::string name = device->name();
  {
    // A mesh of its own only to agree on the context: the machine's sizes follow from it.
    const Mesh mesh(shape);
    int64_t context = fitted.model.max_position_embeddings;
    mesh.world().broadcast("chat", &context, sizeof context);
    set_context(config_, context);
  }
  const double start = now_seconds();
  machine_ = std::make_unique<Machine>(config_, *backend.ops, std::move(device));
  const Runtime rt = machine_->runtime();
  weights_ =
      std::make_unique<WeightStore>(config_, rt.device, rt.ops, rt.exec, rt.mesh, StoreRole::kReference);
  load_weights();
  model_ = std::make_unique<Model>(config_, rt, weights_.get());
  std::vector<int32_t> ids;  // the vocabulary's limit, then the stop tokens
  if (tokenizer_) {
    ids = tokenizer_->stop_tokens();
    ids.insert(ids.begin(), narrow<int32_t>(tokenizer_->vocab_size()));
  } else {
    ids = {0};
  }
  const std::string agreed = from_leader({reinterpret_cast<const char*>(ids.data()), ids.size() * 4});
  ids.resize(agreed.size() / 4);
  std::memcpy(ids.data(), agreed.data(), agreed.size());
  stops_.assign(ids.begin() + 1, ids.end());
  engine_ = std::make_unique<RolloutEngine>(config_, model_.get(), config_.seed, ids[0]);
  if (leader())
    log_info("{}: {} parameters on {}, {} rank{}, context {}{}; ready in {:.1f} s", options.model,
             compact_number(model_size(config_.model).total), name, np, np == 1 ? "" : "s",
             config_.model.max_position_embeddings, why, now_seconds() - start);
}

void Chat::load_weights() {
  std::string checkpoint = chat_.checkpoint;
  if (!chat_.run_dir.empty()) {
    checkpoint = from_leader(leader() ? find_checkpoint(chat_.run_dir).value_or("") : "");
    if (checkpoint.empty()) fail(ExitCode::kNoCheckpoint, "--model: no checkpoint in \"{}\"", chat_.run_dir);
  }
  if (!checkpoint.empty())
    return contender::load_weights(Checkpoint(checkpoint), chat_.config.model, *weights_);
  const ModelFiles files(config_.model.path);
  files.check(config_.model);
  contender::load_weights(files, config_.model, *weights_);
}

// ---- questions ----

std::optional<Turn> Chat::turn_of(const std::string& question) {
  const int64_t context = config_.model.max_position_embeddings;
  const int64_t room = options_.max_new_tokens > 0 ? std::min(options_.max_new_tokens, context / 2)
                                                   : std::min(kRoomForAnswer, context / 4);
  const Prompt prompt = conversation_->ask(question, context, room);
  const size_t end = prompt.text.find_last_not_of(" \n");
  thought_open_ = end != std::string::npos && prompt.text.substr(0, end + 1).ends_with("<think>");
  const int64_t left = context - std::ssize(prompt.tokens);
  return Turn{prompt.tokens,
              narrow<int32_t>(options_.max_new_tokens > 0 ? std::min(left, options_.max_new_tokens) : left)};
}

// nullopt: nobody has asked yet. Rank 0.
std::optional<Turn> Chat::poll_turn() {
  if (!talks_ && turns_ > 0) return Turn();
  if (!options_.ids.empty()) {
    const int64_t left = config_.model.max_position_embeddings - std::ssize(options_.ids);
    if (left < 1)
      fail(ExitCode::kConfig, "--ids: {} tokens, the context is {}", options_.ids.size(),
           config_.model.max_position_embeddings);
    for (const int32_t id : options_.ids)
      if (id < 0 || id >= config_.model.vocab_size)
        fail(ExitCode::kConfig, "--ids: {} is not below the model's vocabulary of {}", id,
             config_.model.vocab_size);
    return Turn{
        options_.ids,
        narrow<int32_t>(options_.max_new_tokens > 0 ? std::min(left, options_.max_new_tokens) : left)};
  }
  if (!options_.question.empty()) return turn_of(options_.question);
  if (talks_ && input_->ended()) {
    if (at_terminal_) show("\n");
    return Turn();
  }
  if (at_terminal_ && !std::exchange(prompted_, true)) show("> ");
  const std::optional<std::string> question = input_->poll();
  if (!question) return std::nullopt;
  prompted_ = false;
  if (blank(*question)) {
    if (!talks_) fail(ExitCode::kConfig, "stdin: nothing was asked");
    return std::nullopt;
  }
  if (!talks_) return turn_of(*question);
  try {
    return turn_of(*question);
  } catch (const Error& e) {
    log_warn("{}", e.what());
    return std::nullopt;
  }
}

// While rank 0 waits for a person, the others look in now and then.
Turn Chat::next_turn() {
  using namespace std::chrono_literals;
  for (bool first = true;; first = false) {
    std::optional<Turn> mine;
    if (leader()) {
      mine = poll_turn();
    } else if (!first) {
      std::this_thread::sleep_for(90ms);
    }
    if (machine_->mesh->size() == 1 && mine) return *mine;
    const std::string told = from_leader(mine ? pack(*mine) : "");
    if (!told.empty()) return unpack(told);
  }
}

// ---- answers ----

void Chat::show_new(const std::vector<int32_t>& tokens) {
  for (; shown_ < tokens.size(); ++shown_) {
    if (!tokenizer_) {
      show(fmt::format("{}{}", shown_ ? " " : "", tokens[shown_]));
      continue;
    }
    const std::string text = decoder_->push(tokens[shown_]);
    answer_ += text;
    if (!text.empty()) show(painter_->push(printable(text)));
  }
}

Answer Chat::answer(const Turn& turn) {
  const Mesh& mesh = *machine_->mesh;
  const uint64_t id = kGivenPrompts + static_cast<uint64_t>(turns_++);
  if (leader() && tokenizer_) {
    decoder_ = std::make_unique<StreamDecoder>(*tokenizer_);
    painter_ = std::make_unique<ThoughtPainter>(stdout_is_terminal(), thought_open_);
  }
  shown_ = 0;
  answer_.clear();
  begin_answer();
  const double start = now_seconds();
  Answer a;
  if (mesh.dp().rank() == 0)
    engine_->submit({.id = id,
                     .prompt_index = static_cast<uint32_t>(id),
                     .step = kStepKey,
                     .prompt = turn.prompt,
                     .params = chat_.sampling,
                     .max_new_tokens = turn.max_new_tokens,
                     .stop_tokens = stops_});
  for (bool more = true; more;) {
    double flags[2] = {static_cast<double>(engine_->step()), static_cast<double>(interrupted())};
    if (mesh.size() > 1) mesh.world().all_reduce_max("chat", flags, 2);
    more = flags[0] > 0;
    const Completion* drawn = engine_->peek(id);
    if (a.first_token_seconds == 0 && (!drawn || !drawn->tokens.empty()))
      a.first_token_seconds = now_seconds() - start;
    if (leader() && drawn) show_new(drawn->tokens);
    if (flags[1] > 0) engine_->cancel(id);
  }
  a.seconds = now_seconds() - start;
  end_answer();
  for (Completion& c : engine_->poll()) a.completion = std::move(c);
  return a;
}

// The rest of the answer, and how fast it was.
void Chat::finish(const Turn& turn, const Answer& a) {
  const Completion& c = a.completion;
  show_new(c.tokens);
  if (tokenizer_) {
    const std::string rest = decoder_->finish();
    answer_ += rest;
    show(painter_->push(printable(rest)) + painter_->finish());
    conversation_->answer(answer_);
  }
  show("\n");
  double logp = 0;
  for (const float l : c.logp) logp += l;
  const double n = static_cast<double>(c.tokens.size());
  const std::string rate =
      n > 1 ? fmt::format(", then {:.1f} tokens/s", (n - 1) / (a.seconds - a.first_token_seconds)) : "";
  log_info("{} tokens{}; prompt of {} at {:.0f} tokens/s, first token after {:.2f} s{}; perplexity {:.2f}",
           c.tokens.size(),
           c.cancelled  ? ", interrupted"
           : c.finished ? ""
                        : ", cut at the limit",
           turn.prompt.size(), static_cast<double>(turn.prompt.size()) / a.first_token_seconds,
           a.first_token_seconds, rate, n > 0 ? std::exp(-logp / n) : 1.0);
}

int Chat::run() {
  if (leader()) {
    const bool asked = !options_.ids.empty() || !options_.question.empty();
    talks_ = !asked && (options_.talk || ::isatty(STDIN_FILENO));
    at_terminal_ = talks_ && ::isatty(STDIN_FILENO) && ::isatty(STDOUT_FILENO);
    input_ = std::make_unique<QuestionReader>(STDIN_FILENO, talks_);
    if (talks_ && !conversation_->remembers())
      log_info("the model has no chat template: it goes on with each line for itself");
    if (at_terminal_) log_info("Ctrl-C ends an answer, Ctrl-D the conversation");
  }
  take_interrupts();
  for (Turn turn = next_turn(); !turn.prompt.empty(); turn = next_turn()) {
    const Answer a = answer(turn);
    if (leader()) finish(turn, a);
  }
  return 0;
}

}  // namespace

int run_chat(const ChatModel& model, const ChatOptions& options, const Backend& backend) {
  return Chat(model, options, backend).run();
}

}  // namespace contender
