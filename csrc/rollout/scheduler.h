// Who is computed in the next forward, on which pages. Plain host logic, a function of the calls alone: every
// rank of a tp group makes the same plan.
//
// A request is a group: its prompt is computed once into pages of the group; each of its sequences (samples)
// shares the prompt's full pages and copies the last, partial one. The first token of all samples is drawn
// from the prompt's one row of logits.
//
// Order is the order of submission, always: sequences wait in it, start in it, and the youngest running one
// loses its pages first. So every running sequence is older than every waiting one, the oldest always
// advances, and nothing starves. A sequence without pages keeps its tokens; it starts again when its prompt
// is resident, and its own tokens are then computed as one chunk.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/model.h"
#include "rollout/engine.h"
#include "rollout/page_allocator.h"

namespace contender {

struct RolloutGroup;

struct RolloutSequence {
  RolloutGroup* group = nullptr;
  int32_t cached = 0;    // rows of prompt + tokens in its pages; the last token drawn is not among them
  int32_t feed = 0;      // tokens of it in the planned forward
  bool running = false;  // has a slot and pages; else it waits
  bool done = false;
  std::vector<int32_t> pages;  // shared ones first
  Completion completion;
};

struct RolloutGroup {
  RolloutRequest request;
  int64_t order = 0;           // of submission
  std::vector<int32_t> pages;  // of the prompt; held only while samples wait
  int32_t cached = 0;          // prompt rows computed
  int32_t feed = 0;
  int32_t live = 0;     // samples not done
  int32_t waiting = 0;  // of them, not running
  bool fresh = true;    // the first tokens, drawn for all samples at once, are still to come
  std::vector<RolloutSequence> sequences;
  int32_t prompt_len() const { return static_cast<int32_t>(request.prompt.size()); }
  bool resident() const { return cached == prompt_len(); }
};

// Rows [0, rows) of page `from` are copied to page `to`, in every layer, before the forward and in list
// order.
struct PageCopy {
  int32_t from = 0, to = 0, rows = 0;
};
struct Draw {
  RolloutSequence* sequence = nullptr;
  int32_t logits_row = 0;  // index into StepPlan::rows
};
struct StepPlan {
  TokenBatch batch;           // counts are left to the policy
  std::vector<int32_t> rows;  // batch rows whose logits are wanted, at most max_sequences
  std::vector<Draw> draws;  // the first num_single draw from rows 0, 1, ...; the others share rows of prompts
  int64_t num_single = 0;
  std::vector<PageCopy> copies;
};

struct SchedulerLimits {
  int64_t max_sequences = 0;  // running at a time
  int64_t max_tokens_per_step = 0;
  int64_t page_size = 0;
  int64_t num_pages = 0;
  int64_t max_positions = 0;  // prompt + completion
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerLimits& limits);

  void submit(RolloutRequest request);
  void cancel(uint64_t id);
  bool idle() const { return groups_.empty(); }
  // The next forward; valid until the next call of anything. Not empty unless idle.
  StepPlan& plan();
  // What was drawn, one entry per draw of the plan, at the given weight version.
  void commit(const int32_t* token, const float* logp, const float* logp_sampled, int64_t version);
  // Forgets every cached row; sequences keep their tokens.
  void drop_cache();
  std::vector<Completion> take_completions();
  const Completion* in_flight(uint64_t id) const;  // RolloutEngine::peek
  RolloutStats take_stats();

  // State is a list of self-delimiting records, one per group or unread completion: states of several ranks
  // may be concatenated.
  std::string save() const;
  void load(const std::string& state, const std::function<bool(uint64_t)>& mine);

 private:
  void check_request(const RolloutRequest& request) const;
  void add_group(RolloutRequest request, std::vector<Completion> samples);
  int64_t pages_for(int64_t rows) const { return ceil_div(rows, limits_.page_size); }
  int64_t pages_at_most(const RolloutGroup& group) const;
  bool can_grow(const RolloutSequence& s) const;

  void feed_running();
  void start_waiting();
  bool start(RolloutSequence& s);
  void prefill_waiting();
  bool prefill(RolloutGroup& group);
  void adopt_prompt(RolloutGroup& group);
  void feed(RolloutSequence& s);
  void append_chunk(const int32_t* tokens, int32_t position, int32_t count,
                    const std::vector<int32_t>& pages);

  bool make_room(int64_t pages, int64_t oldest);
  void release_prompt(RolloutGroup& group);
  void stop_youngest();
  void finish(RolloutSequence& s);
  void sweep();

  SchedulerLimits limits_;
  PageAllocator pages_;
  std::vector<std::unique_ptr<RolloutGroup>> groups_;  // live ones, by order
  std::vector<RolloutSequence*> running_;              // by order
  std::deque<RolloutSequence*> waiting_;               // by order, samples of a group together
  std::vector<RolloutGroup*> prompts_;                 // groups that hold pages, by order
  std::vector<Completion> completions_;
  StepPlan plan_;
  RolloutStats stats_;
  int64_t next_order_ = 0;
  int64_t budget_ = 0;    // tokens left in this plan
  int64_t headroom_ = 0;  // running sequences that may want one more page
  bool dirty_ = false;    // a done sequence is still in running_ or waiting_
};

}  // namespace contender
