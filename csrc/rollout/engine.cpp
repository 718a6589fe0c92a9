#include "rollout/engine.h"

#include <utility>

#include "rollout/engine_core.h"

namespace contender {
namespace {

class ModelPolicy final : public RolloutPolicy {
 public:
  explicit ModelPolicy(Model* model) : model_(model) {}

  void send(TokenBatch& batch, const KvCache& cache, const std::vector<int32_t>& rows) override {
    split_rows_evenly(batch, model_->runtime().mesh->shape().tp);
    model_->send_rollout(batch, cache, rows);
  }
  Tensor forward() override { return model_->run_rollout(); }
  // Collectives stay outside of graphs.
  bool alone() const override {
    const MeshShape& shape = model_->runtime().mesh->shape();
    return shape.tp == 1 && shape.ep == 1;
  }

  // The ranks of a tp group have the same work. An ep group that spans several tp groups exchanges tokens in
  // every forward.
  bool any_rank_has_work(bool mine) override {
    const Mesh& mesh = *model_->runtime().mesh;
    if (mesh.shape().ep <= mesh.shape().tp) return mine;
    double any = mine ? 1 : 0;
    mesh.ep().all_reduce_max("rollout.work", &any, 1);
    return any > 0;
  }

 private:
  Model* model_;
};

}  // namespace

struct RolloutEngine::Impl {
  ModelPolicy policy;
  EngineCore core;
  Impl(const RunConfig& config, Model* model, uint64_t seed, int64_t vocab_limit)
      : policy(model),
        core(config, model->runtime().mesh->shape().tp, model->runtime(), &policy, seed, vocab_limit,
             model->weights().version()) {}
};

RolloutEngine::RolloutEngine(const RunConfig& config, Model* model, uint64_t seed, int64_t vocab_limit)
    : impl_(std::make_unique<Impl>(config, model, seed, vocab_limit)) {}
RolloutEngine::~RolloutEngine() = default;

void RolloutEngine::submit(RolloutRequest request) { impl_->core.scheduler().submit(std::move(request)); }
void RolloutEngine::cancel(uint64_t id) { impl_->core.scheduler().cancel(id); }
bool RolloutEngine::step() { return impl_->core.step(); }
std::vector<Completion> RolloutEngine::poll() { return impl_->core.scheduler().take_completions(); }
const Completion* RolloutEngine::peek(uint64_t id) const { return impl_->core.scheduler().in_flight(id); }
void RolloutEngine::set_weights(int64_t version) { impl_->core.set_weights(version); }
bool RolloutEngine::idle() const { return impl_->core.scheduler().idle(); }
std::string RolloutEngine::save_state() const { return impl_->core.scheduler().save(); }
void RolloutEngine::load_state(const std::string& state, const std::function<bool(uint64_t)>& mine) {
  impl_->core.scheduler().load(state, mine);
}
RolloutStats RolloutEngine::take_stats() { return impl_->core.scheduler().take_stats(); }

}  // namespace contender
