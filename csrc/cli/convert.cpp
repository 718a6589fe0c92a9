#include <filesystem>

#include "base/config_schema.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "cli/models.h"
#include "hub/save.h"

namespace contender {
namespace {

namespace fs = std::filesystem;

// Every byte is looked at before the first is written.
void verify(const Checkpoint& c) {
  for (const ShardFile& shard : c.manifest().files)
    if (const std::string problem = file_problem(c.path() + "/" + shard.record.name, shard.record);
        !problem.empty())
      fail(ExitCode::kNoCheckpoint, "{}: {}", c.path(), problem);
}

// What goes along from the model that this one is, or comes from.
void take_along(const ModelFiles& files, SaveOptions& save) {
  save.companions = files.path();
  for (const auto& [name, stored] : files.tensors())
    if (name.ends_with(kSelectionBias) && save.dtype == DType::kBF16 && stored.type == dtype_name(save.dtype))
      save.selection_bias = save.dtype;
}

// Where the tokenizer is that the run of a checkpoint was given in the place of its model's; "": it was given
// none.
std::string tokenizer_of_run(const std::string& checkpoint) {
  const fs::path config = fs::absolute(checkpoint + "/").parent_path().parent_path() / "config.toml";
  if (!fs::exists(config)) return "";
  std::string path;
  try {
    std::vector<MissingInput> missing;
    path = load_config_before_files(config, {}, 0, read_model_config, missing).tokenizer.path;
  } catch (const Error& e) {
    log_warn("no tokenizer goes along: {}", e.what());
    return "";
  }
  if (path.empty() || GgufFile::named(path) || fs::is_directory(path)) return path;
  if (fs::exists(path)) return fs::absolute(path).parent_path();
  log_warn("no tokenizer goes along: {} is not here", path);
  return "";
}

void from_checkpoint(const std::string& path, const ConvertOptions& o, SaveOptions save) {
  const Checkpoint c(path);
  verify(c);
  const ModelConfig model = model_of_fingerprint(c.info().config_hash);
  if (!model.path.empty() && ModelFiles::present(model.path)) take_along(ModelFiles(model.path), save);
  if (const std::string tokenizer = tokenizer_of_run(path); !tokenizer.empty()) save.companions = tokenizer;
  save_model(
      o.target, model,
      [&](const ModelTensor& t, float* values) {
        c.read_region(t.copy_of.empty() ? t.name : t.copy_of, 0, t.rows, 0, t.cols, values, t.cols);
      },
      save);
}

void from_model(const std::string& path, const ConvertOptions& o, SaveOptions save) {
  const ModelConfig model = read_model_config(path);
  const ModelFiles files(path);
  files.check(model);
  take_along(files, save);
  save_model(
      o.target, model,
      [&](const ModelTensor& t, float* values) {
        const std::string& name = files.find(t.name) ? t.name : t.copy_of;
        files.read(name, t.cols, 0, t.rows, 0, t.cols, values, t.cols);
        const StoredTensor& stored = *files.find(name);
        stored.done_with(0, stored.rows());
      },
      save);
}

}  // namespace

std::string why_no_model(const std::string& path) {
  if (GgufFile::named(path)) return "";
  if (!fs::exists(path)) return "no such file or directory";
  if (!fs::is_directory(path)) {
    const bool beside = fs::exists(fs::absolute(path).parent_path() / "config.json");
    return beside ? "a file of a model; its directory is the model"
                  : "no .gguf file, and no directory of a model or run";
  }
  for (const char* sign : {"config.json", kManifestName, "config.toml"})
    if (fs::exists(fs::path(path) / sign)) return "";
  if (find_checkpoint(path)) return "";
  std::error_code unreadable;
  for (const fs::directory_entry& e : fs::directory_iterator(path, unreadable))
    if (GgufFile::named(e.path()))
      return fmt::format("the model is a file in it: {}", e.path().filename().string());
  return "neither a Hugging Face model (config.json) nor a checkpoint nor a run directory";
}

std::string convert_model(const ConvertOptions& o) {
  const SaveOptions save = {.dtype = o.dtype == "f32" ? DType::kF32 : DType::kBF16,
                            .max_shard_bytes = o.max_shard_bytes};
  if (const std::string why = why_no_model(o.source); !why.empty())
    fail(ExitCode::kConfig, "{}: {}", o.source, why);
  if (GgufFile::named(o.source) || fs::exists(o.source + "/config.json")) {
    from_model(o.source, o, save);
  } else if (fs::exists(o.source + "/" + kManifestName)) {
    from_checkpoint(o.source, o, save);
  } else if (const std::optional<std::string> newest = find_checkpoint(o.source)) {
    from_checkpoint(*newest, o, save);
  } else {
    fail(ExitCode::kNoCheckpoint, "{}: a run directory without a checkpoint", o.source);
  }
  return o.target + "\n";
}

}  // namespace contender
