#include "rollout/scheduler.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace contender {

std::string prompt_name(uint32_t index) {
  if (index >= kGivenPrompts) return fmt::format("prompt {} of the command line", index - kGivenPrompts);
  if (index >= kEvaluationPrompts)
    return fmt::format("prompt {} of the evaluation", index - kEvaluationPrompts);
  return fmt::format("prompt {}", index);
}

Scheduler::Scheduler(const SchedulerLimits& limits) : limits_(limits), pages_(limits.num_pages) {
  CHECK(limits.max_sequences >= 1 && limits.max_tokens_per_step >= 1, "sequences {} tokens {}",
        limits.max_sequences, limits.max_tokens_per_step);
  CHECK(limits.page_size >= 1 && limits.num_pages >= 1, "page size {} pages {}", limits.page_size,
        limits.num_pages);
}

// ---- requests in, completions out ----

// The last token drawn is never fed, so its row is never written.
int64_t Scheduler::pages_at_most(const RolloutGroup& group) const {
  return pages_for(group.prompt_len() + group.request.max_new_tokens - 1);
}

void Scheduler::check_request(const RolloutRequest& request) const {
  CHECK(!request.prompt.empty(), "request {}: the prompt has no tokens", request.id);
  CHECK(request.num_samples >= 1 && request.max_new_tokens >= 1, "request {}: {} samples of {} tokens",
        request.id, request.num_samples, request.max_new_tokens);
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t length = prompt + request.max_new_tokens;
  if (length > limits_.max_positions) {
    fail(ExitCode::kConfig,
         "{} has {} tokens; with {} new ones it needs {} positions, model.max_position_embeddings is {}",
         prompt_name(request.prompt_index), prompt, request.max_new_tokens, length, limits_.max_positions);
  }
  if (pages_for(length - 1) > limits_.num_pages) {
    fail(ExitCode::kOutOfMemory,
         "{}, {} tokens, with {} new ones needs {} KV pages of {} rows, rollout.kv_pages is {}",
         prompt_name(request.prompt_index), prompt, request.max_new_tokens, pages_for(length - 1),
         limits_.page_size, limits_.num_pages);
  }
}

void Scheduler::submit(RolloutRequest request) {
  std::vector<Completion> samples(static_cast<size_t>(std::max(request.num_samples, 0)));
  for (int32_t i = 0; i < request.num_samples; ++i) {
    samples[i].id = request.id;
    samples[i].sample = request.first_sample + i;
  }
  add_group(std::move(request), std::move(samples));
}

// Samples are all without tokens (a new request) or all with some (sequences in flight, loaded).
void Scheduler::add_group(RolloutRequest request, std::vector<Completion> samples) {
  check_request(request);
  RolloutGroup& group = *groups_.emplace_back(std::make_unique<RolloutGroup>());
  group.request = std::move(request);
  group.order = next_order_++;
  group.live = group.waiting = narrow<int32_t>(samples.size());
  group.fresh = samples.front().tokens.empty();
  group.sequences.resize(samples.size());  // never resized again: its elements are pointed to
  for (size_t i = 0; i < samples.size(); ++i) {
    CHECK(samples[i].tokens.empty() == group.fresh, "group {} sample {}", samples[i].id, samples[i].sample);
    group.sequences[i].group = &group;
    group.sequences[i].completion = std::move(samples[i]);
    waiting_.push_back(&group.sequences[i]);
  }
}

void Scheduler::cancel(uint64_t id) {
  for (const auto& group : groups_) {
    if (group->request.id != id) continue;
    for (RolloutSequence& s : group->sequences) {
      if (s.done) continue;
      s.completion.cancelled = true;
      finish(s);
    }
  }
  sweep();
}

void Scheduler::finish(RolloutSequence& s) {
  RolloutGroup& group = *s.group;
  s.done = dirty_ = true;
  pages_.release_all(s.pages);
  completions_.push_back(std::move(s.completion));
  --group.live;
  if (!s.running && --group.waiting == 0) release_prompt(group);
}

void Scheduler::sweep() {
  if (!std::exchange(dirty_, false)) return;
  std::erase_if(running_, [](const RolloutSequence* s) { return s->done; });
  std::erase_if(waiting_, [](const RolloutSequence* s) { return s->done; });
  std::erase_if(groups_, [](const auto& group) { return group->live == 0; });
}

std::vector<Completion> Scheduler::take_completions() { return std::exchange(completions_, {}); }

const Completion* Scheduler::in_flight(uint64_t id) const {
  for (const auto& group : groups_)
    if (group->request.id == id && !group->sequences.front().done)
      return &group->sequences.front().completion;
  return nullptr;
}

RolloutStats Scheduler::take_stats() {
  stats_.peak_pages = pages_.take_peak();
  return std::exchange(stats_, {});
}

// ---- the plan ----

StepPlan& Scheduler::plan() {
  plan_.batch.tokens.clear();
  plan_.batch.positions.clear();
  plan_.batch.cache_rows.clear();
  plan_.batch.seqs.clear();
  plan_.batch.page_ids.clear();
  plan_.batch.counts.clear();
  plan_.rows.clear();
  plan_.draws.clear();
  plan_.copies.clear();
  budget_ = limits_.max_tokens_per_step;
  feed_running();
  headroom_ = std::count_if(running_.begin(), running_.end(), [&](auto* s) { return can_grow(*s); });
  start_waiting();
  plan_.num_single = static_cast<int64_t>(plan_.draws.size());
  prefill_waiting();
  CHECK(idle() || plan_.batch.num_tokens() > 0, "{} running, {} waiting, {} of {} pages free",
        running_.size(), waiting_.size(), pages_.num_free(), pages_.num_pages());
  return plan_;
}

bool Scheduler::can_grow(const RolloutSequence& s) const {
  return static_cast<int64_t>(s.pages.size()) < pages_at_most(*s.group);
}

// Every running sequence advances, the oldest first; the youngest make room for them.
void Scheduler::feed_running() {
  for (size_t i = 0; i < running_.size() && budget_ > 0; ++i) {
    RolloutSequence& s = *running_[i];
    const int64_t pending = s.group->prompt_len() + std::ssize(s.completion.tokens) - s.cached;
    const int64_t wanted = pages_for(s.cached + std::min(pending, budget_)) - std::ssize(s.pages);
    while (!make_room(wanted, s.group->order) && running_.size() > i) {
      ++stats_.preemptions;
      stop_youngest();  // at last this one itself
    }
    if (running_.size() > i) feed(s);
  }
}

// Frees the prompts of waiting groups, the youngest first but none older than `oldest`, until `pages` are
// free.
bool Scheduler::make_room(int64_t pages, int64_t oldest) {
  while (pages > pages_.num_free() && !prompts_.empty() && prompts_.back()->order >= oldest) {
    release_prompt(*prompts_.back());
  }
  return pages <= pages_.num_free();
}

// The next tokens of a sequence, as many as the budget allows; pages for them are free.
void Scheduler::feed(RolloutSequence& s) {
  const int32_t prompt_len = s.group->prompt_len();
  const int32_t begin = s.cached - prompt_len;
  const int32_t pending = static_cast<int32_t>(s.completion.tokens.size()) - begin;
  s.feed = static_cast<int32_t>(std::min<int64_t>(pending, budget_));
  pages_.allocate(pages_for(s.cached + s.feed) - std::ssize(s.pages), s.pages);
  append_chunk(s.completion.tokens.data() + begin, s.cached, s.feed, s.pages);
  stats_.tokens_prefilled += s.feed;
  if (s.feed < pending) return;
  --stats_.tokens_prefilled;  // the last one is decoding
  plan_.draws.push_back({&s, static_cast<int32_t>(plan_.rows.size())});
  plan_.rows.push_back(static_cast<int32_t>(plan_.batch.num_tokens() - 1));
}

void Scheduler::append_chunk(const int32_t* tokens, int32_t position, int32_t count,
                             const std::vector<int32_t>& pages) {
  TokenBatch& batch = plan_.batch;
  batch.seqs.push_back({.q_begin = static_cast<int32_t>(batch.tokens.size()),
                        .q_len = count,
                        .kv_len = position + count,
                        .page_table = static_cast<int32_t>(batch.page_ids.size())});
  const int64_t used_pages = pages_for(position + count);
  batch.page_ids.insert(batch.page_ids.end(), pages.begin(), pages.begin() + used_pages);
  batch.tokens.insert(batch.tokens.end(), tokens, tokens + count);
  const int32_t page_size = static_cast<int32_t>(limits_.page_size);
  for (int32_t p = position; p < position + count; ++p) {
    batch.positions.push_back(p);
    batch.cache_rows.push_back(pages[p / page_size] * page_size + p % page_size);
  }
  budget_ -= count;
}

// Waiting sequences whose prompt is resident get a slot, in order, while the running ones keep a page in
// reserve for each.
void Scheduler::start_waiting() {
  while (!waiting_.empty() && budget_ > 0 && std::ssize(running_) < limits_.max_sequences) {
    RolloutSequence& s = *waiting_.front();
    if (!s.group->resident() || s.group->fresh || !start(s)) return;
    waiting_.pop_front();
    running_.push_back(&s);
    headroom_ += can_grow(s);
    feed(s);
  }
}

bool Scheduler::start(RolloutSequence& s) {
  RolloutGroup& group = *s.group;
  const int32_t prompt_len = group.prompt_len();
  const int32_t tail = prompt_len % static_cast<int32_t>(limits_.page_size);  // rows of the partial page
  const int64_t feed_len = std::min<int64_t>(std::ssize(s.completion.tokens), budget_);
  const int64_t growth = pages_for(prompt_len + feed_len) - std::ssize(group.pages);
  bool last = group.waiting == 1;  // takes the prompt's pages over
  if (!make_room(growth + (tail > 0 && !last) + headroom_, group.order + 1)) {
    if (!running_.empty()) return false;
    last = true;  // alone on the machine: it fits, though not beside its siblings' copy
  }
  if (last) {
    s.pages = group.pages;
    for (const int32_t page : s.pages) pages_.retain(page);
    release_prompt(group);
  } else {
    s.pages.assign(group.pages.begin(), group.pages.end() - (tail > 0));
    for (const int32_t page : s.pages) pages_.retain(page);
    if (tail > 0) {
      pages_.allocate(1, s.pages);
      plan_.copies.push_back({.from = group.pages.back(), .to = s.pages.back(), .rows = tail});
    }
  }
  s.cached = prompt_len;
  s.running = true;
  --group.waiting;
  return true;
}

// Prompts of the waiting groups that have a slot to come, in order.
void Scheduler::prefill_waiting() {
  int64_t slots = limits_.max_sequences - std::ssize(running_);
  for (size_t i = 0; i < waiting_.size() && slots > 0 && budget_ > 0;) {
    RolloutGroup& group = *waiting_[i]->group;
    if (!group.resident() && !prefill(group)) return;
    i += group.waiting;
    slots -= group.waiting;
  }
}

bool Scheduler::prefill(RolloutGroup& group) {
  const int32_t prompt_len = group.prompt_len();
  if (group.pages.empty()) {
    adopt_prompt(group);
    const int64_t wanted = pages_for(prompt_len) - std::ssize(group.pages);
    if (!make_room(wanted + headroom_, group.order + 1)) {
      pages_.release_all(group.pages);
      group.cached = 0;
      return false;
    }
    pages_.allocate(wanted, group.pages);
    prompts_.insert(std::upper_bound(prompts_.begin(), prompts_.end(), &group,
                                     [](auto* a, auto* b) { return a->order < b->order; }),
                    &group);
  }
  group.feed = static_cast<int32_t>(std::min<int64_t>(prompt_len - group.cached, budget_));
  if (group.feed == 0) return true;  // adopted whole
  append_chunk(group.request.prompt.data() + group.cached, group.cached, group.feed, group.pages);
  stats_.tokens_prefilled += group.feed;
  if (group.fresh && group.cached + group.feed == prompt_len) {
    const int32_t row = static_cast<int32_t>(plan_.rows.size());
    plan_.rows.push_back(static_cast<int32_t>(plan_.batch.num_tokens() - 1));
    for (RolloutSequence& s : group.sequences) plan_.draws.push_back({&s, row});
  }
  return true;
}

// A sample that lost its pages finds the prompt's full pages with a sibling that still runs.
void Scheduler::adopt_prompt(RolloutGroup& group) {
  const auto sibling =
      std::find_if(running_.rbegin(), running_.rend(), [&](auto* s) { return s->group == &group; });
  if (sibling == running_.rend()) return;
  const int64_t full = group.prompt_len() / limits_.page_size;
  group.pages.assign((*sibling)->pages.begin(), (*sibling)->pages.begin() + full);
  for (const int32_t page : group.pages) pages_.retain(page);
  group.cached = static_cast<int32_t>(full * limits_.page_size);
}

// ---- cached rows go ----

void Scheduler::release_prompt(RolloutGroup& group) {
  if (group.pages.empty()) return;
  pages_.release_all(group.pages);
  group.cached = 0;
  std::erase(prompts_, &group);
}

// The youngest running sequence becomes the oldest waiting one.
void Scheduler::stop_youngest() {
  RolloutSequence& s = *running_.back();
  pages_.release_all(s.pages);
  s.cached = 0;
  s.running = false;
  ++s.group->waiting;
  running_.pop_back();
  waiting_.push_front(&s);
}

void Scheduler::drop_cache() {
  while (!running_.empty()) stop_youngest();
  while (!prompts_.empty()) release_prompt(*prompts_.back());
}

// ---- after the forward ----

void Scheduler::commit(const int32_t* token, const float* logp, const float* logp_sampled, int64_t version) {
  for (RolloutSequence* s : running_) s->cached += std::exchange(s->feed, 0);
  for (RolloutGroup* group : prompts_) group->cached += std::exchange(group->feed, 0);
  for (size_t i = 0; i < plan_.draws.size(); ++i) {
    RolloutSequence& s = *plan_.draws[i].sequence;
    const RolloutRequest& request = s.group->request;
    Completion& c = s.completion;
    c.tokens.push_back(token[i]);
    c.logp.push_back(logp[i]);
    c.logp_sampled.push_back(logp_sampled[i]);
    c.version.push_back(version);
    s.group->fresh = false;
    c.finished = std::find(request.stop_tokens.begin(), request.stop_tokens.end(), token[i]) !=
                 request.stop_tokens.end();
    if (c.finished || std::ssize(c.tokens) >= request.max_new_tokens) finish(s);
  }
  stats_.tokens_generated += std::ssize(plan_.draws);
  stats_.forwards += 1;
  sweep();
}

}  // namespace contender
