#include <xxhash.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <functional>
#include <map>
#include <numeric>

#include "checkpoint/checkpoint.h"
#include "cli/models.h"
#include "hub/model_config.h"
#include "hub/model_files.h"
#include "plan/plan.h"
#include "report/metrics.h"
#include "report/text.h"

namespace contender {
namespace {

namespace fs = std::filesystem;

// A tensor with its name in the file.
struct Stored {
  std::string name;
  StoredTensor tensor;
  std::function<std::vector<float>()> read;  // in place of tensor.data, where the values lie in several files
  int64_t numel() const {
    return std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1}, std::multiplies<>());
  }
};

std::string shape_text(const StoredTensor& t) {
  std::string text;
  for (const int64_t d : t.shape) text += fmt::format("{}{}", text.empty() ? "" : " x ", d);
  return text.empty() ? "1" : text;
}

std::string size_text(double bytes) {
  const char* unit = "B";
  for (const char* next : {"kB", "MB", "GB", "TB"}) {
    if (bytes < 1000) break;
    bytes /= 1000;
    unit = next;
  }
  return *unit == 'B' ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.2f} {}", bytes, unit);
}

// "model.layers.3.mlp.experts.17.up_proj.weight" -> "model.layers.*.mlp.experts.*.up_proj.weight".
std::string pattern_of(const std::string& name) {
  std::string out;
  for (size_t i = 0; i < name.size(); ++i) {
    const bool begins = i == 0 || name[i - 1] == '.';
    size_t end = i;
    while (end < name.size() && std::isdigit(static_cast<unsigned char>(name[end]))) ++end;
    if (begins && end > i && (end == name.size() || name[end] == '.')) {
      out += '*';
      i = end - 1;
    } else {
      out += name[i];
    }
  }
  return out;
}

// One row for the tensors that differ in numbers of layers and experts only.
std::string tensor_table(const std::vector<Stored>& tensors) {
  struct Row {
    int64_t count = 0, bytes = 0;
    std::string cells[3];
  };
  std::map<std::string, size_t> places;
  std::vector<Row> rows;
  for (const Stored& t : tensors) {
    Row row{.cells = {printable_line(pattern_of(t.name)), shape_text(t.tensor), t.tensor.type}};
    const auto [at, added] =
        places.emplace(row.cells[0] + "|" + row.cells[1] + "|" + row.cells[2], rows.size());
    if (added) rows.push_back(std::move(row));
    ++rows[at->second].count;
    rows[at->second].bytes += t.tensor.bytes;
  }
  std::vector<std::vector<std::string>> table = {{"tensor", "shape", "dtype", "count", "size"}};
  for (const Row& r : rows)
    table.push_back({r.cells[0], r.cells[1], r.cells[2], std::to_string(r.count),
                     size_text(static_cast<double>(r.bytes))});
  return format_table(table);
}

// XXH3-128 over name, dtype, shape and bytes of every tensor, in the order of the names.
std::string hash_of(const std::vector<Stored>& tensors) {
  XXH3_state_t* state = XXH3_createState();
  XXH3_128bits_reset(state);
  for (const Stored& t : tensors) {
    const std::string head = fmt::format("{}|{}|{}|", t.name, t.tensor.type, shape_text(t.tensor));
    XXH3_128bits_update(state, head.data(), head.size());
    if (t.read) {
      const std::vector<float> values = t.read();
      XXH3_128bits_update(state, values.data(), values.size() * sizeof(float));
      continue;
    }
    XXH3_128bits_update(state, t.tensor.data, static_cast<size_t>(t.tensor.bytes));
    t.tensor.done_with(0, t.tensor.rows());
  }
  const XXH128_hash_t h = XXH3_128bits_digest(state);
  XXH3_freeState(state);
  return fmt::format("{:016x}{:016x}", h.high64, h.low64);
}

std::string tensors_text(const std::vector<Stored>& tensors) {
  int64_t bytes = 0, numel = 0;
  for (const Stored& t : tensors) {
    bytes += t.tensor.bytes;
    numel += t.name.ends_with("_scale_inv") ? 0 : t.numel();
  }
  return tensor_table(tensors) + fmt::format("{} tensors, {} values, {}\nhash {}\n", tensors.size(), numel,
                                             size_text(static_cast<double>(bytes)), hash_of(tensors));
}

std::vector<Stored> tensors_of(const SafetensorsFile& file) {
  std::vector<Stored> list;
  for (const auto& [name, info] : file.tensors()) list.push_back({name, stored_tensor(file, info)});
  return list;
}

std::string model_text(const ModelConfig& m) {
  const ModelSize size = model_size(m);
  const std::string experts =
      m.n_routed_experts > 0 ? fmt::format(", {} of {} experts", m.num_experts_per_tok, m.n_routed_experts)
                             : "";
  return fmt::format(
      "{}: {} layers of {}, {} heads{}, vocabulary {}, up to {} tokens\n"
      "parameters: {:.0f} in all, {:.0f} active per token\n",
      m.mla() ? "multi-head latent attention" : "grouped-query attention", m.num_hidden_layers, m.hidden_size,
      m.num_attention_heads, experts, m.vocab_size, m.max_position_embeddings, size.total, size.active);
}

std::string hub_text(const std::string& path) {
  const ModelConfig model = read_model_config(path);
  std::string text = model_text(model);
  if (!ModelFiles::present(path)) return text + "no weights\n";
  const ModelFiles files(path);
  std::vector<Stored> tensors;
  for (const auto& [name, stored] : files.tensors()) tensors.push_back({name, stored});
  text += tensors_text(tensors);
  files.check(model);
  return text +
         fmt::format("the weights are those of {}\n", GgufFile::named(path) ? "the metadata" : "config.json");
}

// The weights as `convert --dtype f32` writes them, whatever ranks they come from.
std::vector<Stored> tensors_of(const Checkpoint& c, const ModelConfig& model) {
  std::vector<Stored> list;
  for (const ModelTensor& t : model_tensors(model)) {
    const auto read = [&c, t] {
      std::vector<float> values(static_cast<size_t>(t.rows * t.cols));
      c.read_region(t.copy_of.empty() ? t.name : t.copy_of, 0, t.rows, 0, t.cols, values.data(), t.cols);
      return values;
    };
    Stored stored = {.name = t.name, .tensor = {}, .read = read};
    stored.tensor.type = "F32";
    stored.tensor.shape = t.shape;
    stored.tensor.bytes = 4 * t.rows * t.cols;
    list.push_back(std::move(stored));
  }
  std::sort(list.begin(), list.end(), [](const Stored& a, const Stored& b) { return a.name < b.name; });
  return list;
}

std::string checkpoint_text(const std::string& path) {
  const Checkpoint c(path);
  const CheckpointInfo& info = c.info();
  const ModelConfig model = model_of_fingerprint(info.config_hash);
  std::string text =
      fmt::format("{}: step {} of run {}, written by {} ranks (tp {}, dp {}, ep {})\n", path, info.step,
                  info.run_id, info.layout.np, info.layout.tp, info.layout.dp, info.layout.ep) +
      model_text(model) + tensors_text(tensors_of(c, model));
  int64_t bytes = 0;
  for (const ShardFile& shard : c.manifest().files) {
    bytes += shard.record.bytes;
    if (const std::string problem = file_problem(path + "/" + shard.record.name, shard.record);
        !problem.empty())
      fail(ExitCode::kNoCheckpoint, "{}: {}", path, problem);
  }
  return text + fmt::format(
                    "{} files, {} with optimizer and all that the run goes on from; every byte is as it "
                    "was written\n",
                    c.manifest().files.size(), size_text(static_cast<double>(bytes)));
}

}  // namespace

std::string inspect_model(const std::string& path) {
  if (fs::is_regular_file(path) && path.ends_with(".safetensors")) {
    const SafetensorsFile file(path);
    return tensors_text(tensors_of(file));
  }
  if (const std::string why = why_no_model(path); !why.empty()) fail(ExitCode::kConfig, "{}: {}", path, why);
  if (GgufFile::named(path) || fs::exists(path + "/config.json")) return hub_text(path);
  if (fs::exists(path + "/" + kManifestName)) return checkpoint_text(path);
  const std::optional<FoundManifest> newest = newest_manifest(path);
  if (!newest) fail(ExitCode::kNoCheckpoint, "{}: a run directory without a checkpoint", path);
  return checkpoint_text(newest->path);
}

}  // namespace contender
