#include "model/weights.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/philox.h"
#include "base/timer.h"
#include "model/sizes.h"

namespace contender {
namespace {

uint64_t fnv1a(const std::string& s) {
  uint64_t h = 1469598103934665603ull;
  for (unsigned char c : s) h = (h ^ c) * 1099511628211ull;
  return h;
}

ShardPlace place_of(const Mesh& mesh) {
  return {mesh.tp().size(), mesh.tp().rank(), mesh.ep().size(), mesh.ep().rank()};
}

// Parameters of one (layer, kind, uses), in list order.
std::vector<Bucket> make_buckets(const std::vector<ParamSpec>& specs) {
  std::vector<Bucket> buckets;
  for (int p = 0; p < static_cast<int>(specs.size()); ++p) {
    const ParamSpec& s = specs[p];
    auto same = [&](const Bucket& b) { return b.layer == s.layer && b.kind == s.kind && b.uses == s.uses; };
    auto it = std::find_if(buckets.begin(), buckets.end(), same);
    if (it == buckets.end()) {
      buckets.push_back({.layer = s.layer, .kind = s.kind, .uses = s.uses});
      it = buckets.end() - 1;
    }
    it->params.push_back(p);
    it->n += s.numel();
  }
  return buckets;
}

bool needs_backward_form(const ParamSpec& s, StoreRole role) {
  return s.packed && (role == StoreRole::kTrain || s.forward_transposed);
}

int64_t packed_bytes(const ParamSpec& s, StoreRole role, const WeightFormat& f) {
  if (!s.packed) return 0;
  return s.groups * (packed_forward_bytes(s.n, s.k, f) +
                     (needs_backward_form(s, role) ? packed_backward_bytes(s.n, s.k, f) : 0));
}

int64_t scale_elements(int64_t groups, int64_t n, int64_t k) {
  return groups * ceil_div(n, kQuantizeBlock) * ceil_div(k, kQuantizeBlock);
}
int64_t fp8_bytes(const ParamSpec& s, StoreRole role) {
  return (role == StoreRole::kTrain ? 2 : 1) * fp8_form_bytes(s);
}
int64_t form_bytes(const ParamSpec& s, StoreRole role, const WeightFormat& f, bool fp8) {
  return fp8 && s.fp8 ? fp8_bytes(s, role) : packed_bytes(s, role, f);
}

// Shapes that FP8 products take; and a tensor-parallel rank has whole blocks of 128 of the dimension that is
// cut, so that no layout moves a block's edge.
void check_fp8_shape(const ParamSpec& s, int tp) {
  if (s.n % 16 != 0 || s.k % 16 != 0)
    fail(ExitCode::kConfig,
         "train.precision = \"fp8\": {} is {} x {} on a rank, FP8 products want multiples of 16", s.name, s.n,
         s.k);
  if (tp == 1 || s.kind != ParamKind::kTensor) return;
  const int64_t cut = s.pieces.front().cols < s.pieces.front().hf_cols ? s.k : s.n;
  if (cut % kQuantizeBlock != 0)
    fail(
        ExitCode::kConfig,
        "train.precision = \"fp8\" with mesh.tp = {}: {} has {} rows or columns for each rank, and blocks of "
        "{} must not be cut; lower mesh.tp",
        tp, s.name, cut, kQuantizeBlock);
}

// Of the sums over tokens that a rank makes for one weight.
void check_leaves(const RunConfig& config, const MeshShape& mesh) {
  const int64_t sharers = config.model.n_routed_experts > 0 ? std::min(mesh.dp, mesh.edp) : mesh.dp;
  const int64_t leaves = config.mesh.data_slots / sharers;
  if (leaves > kMaxLeaves)
    fail(ExitCode::kConfig,
         "mesh.data_slots = {}: a rank would sum its gradients over {} slots, {} at most; lower "
         "mesh.data_slots or use more ranks",
         config.mesh.data_slots, leaves, kMaxLeaves);
}

void check_sizes(const RunConfig& config, const std::vector<ParamSpec>& specs, const MeshShape& mesh) {
  check_leaves(config, mesh);
  if (config.train.precision != "fp8") return;
  for (const ParamSpec& s : specs)
    if (s.fp8) check_fp8_shape(s, mesh.tp);
}

// Scalars of the optimizer in device memory.
struct Scalars {
  ExactSum square_sum;
  float grad_scale = 1;
};

uint16_t float_to_bf16(float f) {  // values come from BF16 memory: exact
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  return static_cast<uint16_t>(bits >> 16);
}

}  // namespace

WeightStore::WeightStore(const RunConfig& config, Device* device, const Ops* ops, const Exec& exec,
                         Mesh* mesh, StoreRole role)
    : config_(&config), device_(device), ops_(ops), exec_(exec), mesh_(mesh), role_(role) {
  specs_ = param_specs(config.model, place_of(*mesh));
  moment_dtype_ = config.train.moment_dtype == "bf16" ? DType::kBF16 : DType::kF32;
  fp8_ = config.train.precision == "fp8";
  check_sizes(config, specs_, mesh->shape());
  layout_buckets();
  int64_t packed = 0;
  for (const ParamSpec& s : specs_) {
    forward_offset_.push_back(s.packed ? packed : -1);
    if (fp8_ && s.fp8) {
      backward_offset_.push_back(-1);
      packed += fp8_bytes(s, role);
      continue;
    }
    backward_offset_.push_back(
        needs_backward_form(s, role) ? packed + s.groups * packed_forward_bytes(s.n, s.k, ops->weights) : -1);
    packed += packed_bytes(s, role, ops->weights);
  }
  const char* what = role == StoreRole::kTrain ? "weights" : "reference weights";
  master_ = Buffer(device, master_numel_ * 4, what);
  packed_ = Buffer(device, packed, what);
  place_fp8_forms();
  if (role == StoreRole::kReference) return;
  grad_ = Buffer(device, grad_numel_ * 4, "gradients");
  grad_shard_ = Buffer(device, shard_numel_ * 4, "gradient shards");
  moment_m_ = Buffer(device, shard_numel_ * dtype_size(moment_dtype_), "optimizer");
  moment_v_ = Buffer(device, shard_numel_ * dtype_size(moment_dtype_), "optimizer");
  int64_t planes = 0;
  for (const Bucket& b : buckets_) planes += b.uses * b.shard_n;
  scratch_ = Buffer(device, planes * 4, "gradient shards");
  scalars_ = Buffer(device, sizeof(Scalars), "optimizer");
  for (Buffer* b : {&grad_, &grad_shard_, &moment_m_, &moment_v_})
    device->zero(exec.stream, b->data(), b->bytes());
}

void WeightStore::place_fp8_forms() {
  fp8_forms_.resize(specs_.size());
  for (int p = 0; p < std::ssize(specs_); ++p) {
    if (!fp8(p)) continue;
    const ParamSpec& s = specs_[p];
    char* at = static_cast<char*>(packed_.data()) + forward_offset_[p];
    auto form = [&](int64_t n, int64_t k) {
      const int64_t scale_cols = ceil_div(k, kQuantizeBlock),
                    scale_rows = scale_elements(s.groups, n, k) / scale_cols;
      const QTensor q = {.data = {at, DType::kE4M3, s.groups * n, k},
                         .scale = {at + round_up(s.numel(), 64), DType::kF32, scale_rows, scale_cols},
                         .layout = QLayout::k128x128};
      at += round_up(s.numel(), 64) + round_up(4 * scale_rows * scale_cols, 64);
      return q;
    };
    fp8_forms_[p].forward = form(s.n, s.k);
    if (role_ == StoreRole::kTrain) fp8_forms_[p].backward = form(s.k, s.n);
  }
}

void WeightStore::layout_buckets() {
  buckets_ = make_buckets(specs_);
  param_offset_.resize(specs_.size());
  param_bucket_.resize(specs_.size());
  param_place_.resize(specs_.size());
  for (int i = 0; i < static_cast<int>(buckets_.size()); ++i) {
    Bucket& b = buckets_[i];
    b.offset = master_numel_;
    b.grad_offset = grad_numel_;
    b.shard_offset = shard_numel_;
    const Group& g = group_of(b.kind);
    const auto [begin, end] = shard_range(b.n, g.rank(), g.size());
    b.shard_begin = begin;
    b.shard_n = end - begin;
    int64_t place = 0;
    for (int p : b.params) {
      param_offset_[p] = b.offset + place;
      param_bucket_[p] = i;
      param_place_[p] = place;
      place += specs_[p].numel();
    }
    master_numel_ += round_up(b.n, 16);
    grad_numel_ += b.uses * round_up(b.n, 16);
    shard_numel_ += round_up(b.shard_n, 16);
  }
}

int WeightStore::find(const std::string& name) const {
  for (int p = 0; p < static_cast<int>(specs_.size()); ++p)
    if (specs_[p].name == name) return p;
  fail(ExitCode::kInternal, "no parameter named {}", name);
}

Group& WeightStore::group_of(ParamKind kind) const {
  switch (kind) {
    case ParamKind::kTokenWise:
      return mesh_->world();
    case ParamKind::kTensor:
      return mesh_->dp();
    case ParamKind::kExpert:
      return mesh_->edp();
  }
  fail(ExitCode::kInternal, "parameter kind {}", static_cast<int>(kind));
}

Tensor WeightStore::master(int p) const {
  return f32_tensor(master_.f32() + param_offset_[p], specs_[p].rows(), specs_[p].k);
}

Tensor WeightStore::grad(int p, int use) const {
  const Bucket& b = buckets_[param_bucket_[p]];
  CHECK(use < b.uses, "use {} of {} in {}", use, b.uses, specs_[p].name);
  float* plane = grad_.f32() + b.grad_offset + use * round_up(b.n, 16);
  return f32_tensor(plane + param_place_[p], specs_[p].rows(), specs_[p].k);
}

WeightView WeightStore::view(int p) const {
  const ParamSpec& s = specs_[p];
  CHECK(s.packed && !fp8(p), "{}", s.name);
  const char* base = static_cast<const char*>(packed_.data());
  return {.forward = base + forward_offset_[p],
          .backward = backward_offset_[p] < 0 ? nullptr : base + backward_offset_[p],
          .n = s.n,
          .k = s.k,
          .num_groups = s.groups,
          .format = ops_->weights};
}

void WeightStore::initialize(uint64_t seed) {
  const float std_dev = static_cast<float>(config_->model.initializer_range);
  for (int p = 0; p < static_cast<int>(specs_.size()); ++p) {
    const ParamSpec& s = specs_[p];
    std::vector<float> values(s.numel(), s.ones ? 1.0f : 0.0f);
    if (s.ones || s.zeros) {
      set_master(p, 0, values);
      continue;
    }
    // An element is a function of its tensor's name and of its place in the whole tensor: the same in every
    // layout.
    for (const ParamPiece& piece : s.pieces) {
      const uint64_t key = fnv1a(piece.hf_name);
      for (int64_t r = 0; r < piece.rows; ++r) {
        float* row = values.data() + (piece.local_row + r) * s.k;
        for (int64_t c = 0; c < piece.cols; ++c) {
          const uint64_t at = static_cast<uint64_t>((piece.hf_row + r) * piece.hf_cols + piece.hf_col + c);
          const PhiloxBlock x = philox(seed, RandomStream::kInit, key, static_cast<uint32_t>(at),
                                       static_cast<uint32_t>(at >> 32));
          row[c] = std_dev * normal01(x[0], x[1]);
        }
      }
    }
    set_master(p, 0, values);
  }
  repack();
}

void WeightStore::set_master(int p, int64_t row, const std::vector<float>& values) {
  const Tensor w = master(p);
  CHECK(row * w.cols + std::ssize(values) <= w.numel(), "{}: {} values from row {} on", specs_[p].name,
        values.size(), row);
  device_->upload(exec_.stream, w.row(row), values.data(), std::ssize(values) * 4);
}

Tensor WeightStore::host_view(const Tensor& t, std::vector<char>& memory) const {
  if (device_->host_memory()) return t;
  CHECK(t.contiguous());
  memory.resize(t.numel() * dtype_size(t.dtype));
  device_->download(exec_.stream, memory.data(), t.data, std::ssize(memory));
  return {memory.data(), t.dtype, t.rows, t.cols};
}

WeightCopies WeightStore::copies(int p) const {
  const ParamSpec& s = specs_[p];
  WeightCopies c = {.n = s.n, .k = s.k, .num_groups = s.groups};
  if (!s.packed) return c;
  if (fp8(p)) {
    c.q = fp8_forms_[p].forward;
    c.transposed = fp8_forms_[p].backward;
    return c;
  }
  char* base = static_cast<char*>(packed_.data());
  c.forward = base + forward_offset_[p];
  if (backward_offset_[p] >= 0) c.backward = base + backward_offset_[p];
  return c;
}

void WeightStore::repack(int p) {
  const WeightCopies c = copies(p);
  if (c.forward)
    ops_->pack_weight(exec_, {.master = master(p),
                              .forward = c.forward,
                              .backward = c.backward,
                              .n = c.n,
                              .k = c.k,
                              .num_groups = c.num_groups});
  if (c.q.data)
    ops_->quantize_weight(exec_,
                          {.x = master(p), .num_groups = c.num_groups, .q = c.q, .transposed = c.transposed});
}

void WeightStore::repack() {
  for (int p = 0; p < static_cast<int>(specs_.size()); ++p) repack(p);
}

void WeightStore::copy_from(const WeightStore& other) {
  CHECK(master_numel_ == other.master_numel_);
  device_->copy(exec_.stream, master_.data(), other.master_.data(), master_numel_ * 4);
  version_ = other.version_;
  repack();
}

void WeightStore::begin_step() { device_->zero(exec_.stream, grad_shard_.data(), grad_shard_.bytes()); }

void WeightStore::begin_round() { device_->zero(exec_.stream, grad_.data(), grad_.bytes()); }

void WeightStore::reduce_layer(int64_t layer) {
  for (int i = 0; i < static_cast<int>(buckets_.size()); ++i)
    if (buckets_[i].layer == layer) reduce_bucket(i);
}

void WeightStore::reduce_bucket(int index) {
  const Bucket& b = buckets_[index];
  int64_t at = 0;  // the bucket's place in scratch_: planes of all buckets before it
  for (int i = 0; i < index; ++i) at += buckets_[i].uses * buckets_[i].shard_n;
  InFlight f{index, {}};
  for (int64_t u = 0; u < b.uses; ++u)
    f.planes.push_back(
        group_of(b.kind).reduce_scatter_flat("reduce", grad_.f32() + b.grad_offset + u * round_up(b.n, 16),
                                             b.n, scratch_.f32() + at + u * b.shard_n));
  in_flight_.push_back(std::move(f));
}

void WeightStore::finish_reduce() {
  for (InFlight& f : in_flight_) {
    const Bucket& b = buckets_[f.bucket];
    int64_t at = 0;
    for (int i = 0; i < f.bucket; ++i) at += buckets_[i].uses * buckets_[i].shard_n;
    float* shard = grad_shard_.f32() + b.shard_offset;
    for (size_t u = 0; u < f.planes.size();
         ++u) {  // uses in order, so that the sum does not depend on the layout
      f.planes[u].wait();
      const Tensor plane =
          f32_tensor(scratch_.f32() + at + static_cast<int64_t>(u) * b.shard_n, 1, b.shard_n);
      const Tensor sum = f32_tensor(shard, 1, b.shard_n);
      if (b.shard_n > 0) ops_->add(exec_, {.a = sum, .b = plane, .y = sum});
    }
  }
  in_flight_.clear();
}

Readback::Place<ExactSum> WeightStore::grad_square_sum(Readback& results) {
  auto* sum = &static_cast<Scalars*>(scalars_.data())->square_sum;
  device_->zero(exec_.stream, sum, sizeof(ExactSum));
  for (const Bucket& b : buckets_)
    ops_->square_sum(exec_, {.x = grad_shard_.f32() + b.shard_offset, .n = b.shard_n, .sum = sum});
  return results.add(sum, 1);
}

void WeightStore::adamw_step(const AdamwStep& step) {
  float* grad_scale = &static_cast<Scalars*>(scalars_.data())->grad_scale;
  device_->upload(exec_.stream, grad_scale, &step.grad_scale, sizeof(float));
  std::vector<Pending> gathers;
  std::vector<int> parts;  // parameters of which other ranks have parts: packed once those are here
  for (const Bucket& b : buckets_) {
    const bool unsharded = b.shard_n == b.n;
    int64_t place = 0;
    for (int p : b.params) {
      const int64_t begin = std::max(place, b.shard_begin),
                    end = std::min(place + specs_[p].numel(), b.shard_begin + b.shard_n);
      place += specs_[p].numel();
      if (!unsharded) parts.push_back(p);
      if (begin >= end || specs_[p].frozen) continue;
      const int64_t s = b.shard_offset + begin - b.shard_begin;
      ops_->adamw(exec_,
                  {.n = end - begin,
                   .master = master_.f32() + b.offset + begin,
                   .grad = grad_shard_.f32() + s,
                   .m = static_cast<char*>(moment_m_.data()) + s * dtype_size(moment_dtype_),
                   .v = static_cast<char*>(moment_v_.data()) + s * dtype_size(moment_dtype_),
                   .moment_dtype = moment_dtype_,
                   .grad_scale = grad_scale,
                   .lr = step.lr,
                   .beta1 = step.beta1,
                   .beta2 = step.beta2,
                   .eps = step.eps,
                   .weight_decay = specs_[p].decay ? step.weight_decay : 0.0f,
                   .bias_correction1 = static_cast<float>(1.0 - std::pow(double{step.beta1}, double(step.t))),
                   .bias_correction2 = static_cast<float>(1.0 - std::pow(double{step.beta2}, double(step.t))),
                   .copies = unsharded ? copies(p) : WeightCopies()});
    }
    float* whole = master_.f32() + b.offset;
    gathers.push_back(group_of(b.kind).all_gather_flat("gather_weights", whole + b.shard_begin, b.n, whole));
  }
  for (Pending& g : gathers) g.wait();
  for (int p : parts) repack(p);
  ++version_;
}

void WeightStore::set_moments(bool first, int64_t at, const std::vector<float>& values) {
  const Tensor t = first ? moment_m(at, 1, std::ssize(values)) : moment_v(at, 1, std::ssize(values));
  if (moment_dtype_ == DType::kF32) {
    device_->upload(exec_.stream, t.data, values.data(), t.numel() * 4);
  } else {
    std::vector<uint16_t> bf16(values.size());
    std::ranges::transform(values, bf16.begin(), float_to_bf16);
    device_->upload(exec_.stream, t.data, bf16.data(), t.numel() * 2);
  }
}

uint64_t WeightStore::fingerprint() const {
  auto mix = [](uint64_t x) {  // splitmix64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
  };
  uint64_t sum = 0;
  std::vector<char> memory;
  for (int p = 0; p < static_cast<int>(specs_.size()); ++p) {
    if (group_of(specs_[p].kind).rank() != 0) continue;  // each element once
    const Tensor w = host_view(master(p), memory);
    for (const ParamPiece& piece : specs_[p].pieces) {
      const uint64_t key = fnv1a(piece.hf_name);
      for (int64_t r = 0; r < piece.rows; ++r)
        for (int64_t c = 0; c < piece.cols; ++c) {
          const uint64_t at = static_cast<uint64_t>((piece.hf_row + r) * piece.hf_cols + piece.hf_col + c);
          sum += mix(mix(key + at) + std::bit_cast<uint32_t>(w.row(piece.local_row + r)[c]));
        }
    }
  }
  int64_t total = static_cast<int64_t>(sum);  // wraps, as it should
  mesh_->world().all_reduce_sum("fingerprint", &total, 1);
  return static_cast<uint64_t>(total);
}

int64_t fp8_form_bytes(const ParamSpec& s) {
  return round_up(s.numel(), 64) + round_up(4 * scale_elements(s.groups, s.n, s.k), 64);
}

int64_t WeightStore::bytes(const std::vector<ParamSpec>& specs, const RunConfig& config, StoreRole role,
                           const MeshShape& mesh) {
  check_sizes(config, specs, mesh);
  const int64_t moment = config.train.moment_dtype == "bf16" ? 2 : 4;
  int64_t total = 0;
  const bool fp8 = config.train.precision == "fp8";
  for (const ParamSpec& s : specs) total += form_bytes(s, role, weight_format(config), fp8);
  for (const Bucket& b : make_buckets(specs)) {
    total += 4 * round_up(b.n, 16);
    if (role == StoreRole::kReference) continue;
    const int sharers = b.kind == ParamKind::kTokenWise ? mesh.np()
                        : b.kind == ParamKind::kTensor  ? mesh.dp
                                                        : mesh.edp;
    const auto [begin, end] = shard_range(b.n, 0, sharers);
    total += 4 * b.uses * round_up(b.n, 16) + round_up(end - begin, 16) * (4 + 2 * moment) +
             4 * b.uses * (end - begin);
  }
  return total;
}

}  // namespace contender
