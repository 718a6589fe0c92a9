// From a TOML file and `--set` overrides to a checked RunConfig; every problem is collected and said at once.
#define TOML_ENABLE_FORMATTERS 0
// Some of what is wrong in a file ("[$]") toml++ 3.3 meets with an assertion only: an error like the others.
namespace contender {
[[noreturn]] void fail_toml(const char* what);
}
#define TOML_ASSERT(expr) ((expr) ? static_cast<void>(0) : ::contender::fail_toml(#expr))
#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <set>

#include "base/config_schema.h"
#include "base/error.h"

namespace contender {

void fail_toml(const char* what) { throw std::runtime_error(what); }

namespace {

// Where a value came from. Line 0: the file as a whole.
struct Place {
  int64_t line = 0;
  bool from_set = false;
};

struct Override {
  std::string section_key;  // "rl.lr"
  std::string stage;        // name of the only stage it is for, or ""
  std::string text;         // right of the =
};

std::string join_name(const std::string& section, const std::string& key) {
  return section.empty() ? key : section + "." + key;
}

// Nothing reads these sections of a stage.
bool unread(const StageConfig& stage, const ConfigSection& section) {
  return (section.name == "sft" && stage.kind == "rl") || (section.name == "rl" && stage.kind == "sft");
}

const char* type_name(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "a list";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "an integer";
    case toml::node_type::floating_point:
      return "a number with a point or exponent";
    case toml::node_type::boolean:
      return "a boolean";
    default:
      return "a date or time";
  }
}

// Stores an allowed value; returns what is wrong with any other.
template <class T>
std::string assign_field(T* field, const ConfigKey& key, const toml::node& node) {
  std::optional<T> value;
  if constexpr (std::is_same_v<T, std::vector<std::string>>) {
    if (const toml::array* list = node.as_array()) {
      value.emplace();
      for (const toml::node& item : *list) {
        if (!item.is_string())
          return fmt::format("expected a list of strings, found {} in it", type_name(item));
        value->push_back(**item.as_string());
      }
    } else if (node.is_string()) {
      value = T{**node.as_string()};  // a list of one
    }
  } else if constexpr (std::is_same_v<T, std::vector<double>>) {
    if (const toml::array* list = node.as_array()) {
      value.emplace();
      for (const toml::node& item : *list) {
        if (!item.is_number())
          return fmt::format("expected a list of numbers, found {} in it", type_name(item));
        value->push_back(*item.value<double>());
      }
    }
  } else if constexpr (std::is_same_v<T, double>) {
    if (node.is_number()) value = node.value<double>();
  } else if constexpr (std::is_same_v<T, uint64_t>) {
    if (node.is_integer() && **node.as_integer() < 0)
      return fmt::format("{} is negative", **node.as_integer());
    if (node.is_integer()) value = static_cast<uint64_t>(**node.as_integer());
  } else {
    value = node.value_exact<T>();
  }
  if (!value) return fmt::format("expected {}, not {}", allowed_text(key), type_name(node));
  const std::string problem = rule_problem(key.rule, ConfigField(&*value));
  if (problem.empty()) *field = *value;
  return problem;
}

// One file or override being read. Names are full: "rl.lr", "stage.reasoning.rl.lr".
class Loader {
 public:
  // With `missing`, files that are not there are listed in it, else they are problems.
  Loader(const std::string& path, const ModelReader& read_model, std::vector<MissingInput>* missing = nullptr)
      : path_(path), read_model_(read_model), missing_(missing) {
    config_.path = path;
  }

  RunConfig load(const std::vector<std::string>& overrides, int np) {
    for (const std::string& text : overrides) read_override(text);
    if (const std::optional<toml::table> file = parse_file()) {
      const std::optional<ModelConfig> model = read_model(*file);
      read_sections(*file);
      apply_overrides(config_sections(config_), "", "");
      if (model) check_choices(*model);
      read_stages(*file);
      check_stage_overrides();
      if (model_known_)
        for (const ConfigProblem& p : check_config(config_, np))
          p.missing.empty() || !missing_ ? add_check(p) : add_missing(p.keys[0], p.missing);
      if (missing_ && !exists(config_.tokenizer.path)) add_missing("tokenizer.path", config_.tokenizer.path);
    }
    if (!problems_.empty()) throw Error(ExitCode::kConfig, report());
    return std::move(config_);
  }

 private:
  struct Problem {
    Place place;
    std::string text;
  };

  static bool exists(const std::string& path) { return path.empty() || ::access(path.c_str(), F_OK) == 0; }
  void add_missing(const std::string& key, const std::string& path) {
    const auto same = [&](const MissingInput& m) { return m.path == path; };
    if (std::none_of(missing_->begin(), missing_->end(), same)) missing_->push_back({key, path});
  }
  void add(Place place, const std::string& text) { problems_.push_back({place, text}); }
  // A problem of one key; checks that involve it are left out, its value is not known.
  void add_key(Place place, const std::string& name, const std::string& text) {
    bad_keys_.insert(name);
    add(place, name + ": " + text);
  }
  void add_check(const ConfigProblem& p) {
    if (std::any_of(p.keys.begin(), p.keys.end(), [&](const auto& k) { return bad_keys_.contains(k); }))
      return;
    const auto written =
        std::find_if(p.keys.begin(), p.keys.end(), [&](const auto& k) { return places_.contains(k); });
    if (written != p.keys.end()) return add(places_.at(*written), p.keys[0] + ": " + p.text);
    const std::string section = p.keys[0].substr(0, p.keys[0].rfind('.'));
    add(places_.contains(section) ? places_.at(section) : Place{.line = 1},
        p.keys[0] + " (default): " + p.text);
  }

  // In the order of the file, overrides last.
  std::string report() {
    const auto order = [](const Problem& p) { return std::pair(p.place.from_set, p.place.line); };
    std::stable_sort(problems_.begin(), problems_.end(),
                     [&](const Problem& a, const Problem& b) { return order(a) < order(b); });
    std::string text;
    for (const Problem& p : problems_) {
      text += text.empty() ? "" : "\n";
      if (p.place.from_set) {
        text += "--set: " + p.text;
      } else {
        text +=
            p.place.line > 0 ? fmt::format("{}:{}: {}", path_, p.place.line, p.text) : path_ + ": " + p.text;
      }
    }
    return text;
  }

  std::optional<toml::table> parse_file() {
    errno = 0;
    std::ifstream in(path_, std::ios::binary);
    in.peek();  // a directory opens, but does not read
    if (!in.is_open() || in.bad()) {
      add({}, fmt::format("cannot read the file: {}", std::strerror(errno)));
      return std::nullopt;
    }
    const std::string content{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    try {
      return toml::parse(content, path_);
    } catch (const toml::parse_error& e) {
      add({.line = static_cast<int64_t>(e.source().begin.line)},
          fmt::format("syntax error: {}", e.description()));
    } catch (const std::runtime_error&) {
      add({.line = line_of_assertion(content)}, "syntax error");
    }
    return std::nullopt;
  }

  // The first line with which the text fails an assertion of the parser.
  static int64_t line_of_assertion(const std::string& content) {
    std::vector<size_t> ends;  // of the lines
    do {
      const size_t newline = content.find('\n', ends.empty() ? 0 : ends.back());
      ends.push_back(std::min(newline, content.size() - 1) + 1);
    } while (ends.back() < content.size());
    const auto fails = [&](size_t end) {
      try {
        (void)toml::parse(std::string_view(content).substr(0, end));
      } catch (const toml::parse_error&) {
      } catch (const std::runtime_error&) {
        return true;
      }
      return false;
    };
    const auto bad = std::partition_point(ends.begin(), ends.end(), [&](size_t end) { return !fails(end); });
    return bad - ends.begin() + 1;
  }

  // --- model.path: the section [model] comes from elsewhere ---

  // The model that the run starts from, as what [model] is before its keys are read.
  std::optional<ModelConfig> read_model(const toml::table& file) {
    std::string dir = file["model"]["path"].value_or(std::string());
    Place place = file["model"]["path"] ? place_of(*file["model"]["path"].node()) : Place{};
    for (const Override& o : overrides_) {
      if (o.section_key != "model.path") continue;
      dir = parse_override(o, /*text_wanted=*/true).get("value")->value_or(std::string());
      place = {.from_set = true};
    }
    if (dir.empty()) return std::nullopt;
    if (missing_ && !exists(dir) && file["model"]["hidden_size"]) {
      add_missing("model.path", dir);
      return std::nullopt;
    }
    CHECK(read_model_, "model.path, and nothing that could read it");
    try {
      config_.model = read_model_(dir);
    } catch (const Error& e) {
      add_key(place, "model.path", e.what());
      model_known_ = false;
      return std::nullopt;
    }
    return config_.model;
  }

  // The file may change what the weights leave open, and nothing else.
  void check_choices(ModelConfig given) {
    static const std::set<std::string> open = {"path", "max_position_embeddings", "initializer_range",
                                               "mla_form", "bias_update_speed"};
    const ModelConfig& m = config_.model;
    ConfigSection mine, theirs;
    RunConfig other;
    other.model = given;
    for (ConfigSection& s : config_sections(config_))
      if (s.name == "model") mine = std::move(s);
    for (ConfigSection& s : config_sections(other))
      if (s.name == "model") theirs = std::move(s);
    for (size_t i = 0; i < mine.keys.size(); ++i) {
      const std::string &name = mine.keys[i].name, full = "model." + name;
      const bool without_mtp = name == "num_nextn_predict_layers" && m.num_nextn_predict_layers == 0;
      const bool longer = name.starts_with("rope_") && name != "rope_theta";
      const std::string here = format_value(mine.keys[i].field), there = format_value(theirs.keys[i].field);
      if (here == there || open.contains(name) || without_mtp || longer || bad_keys_.contains(full)) continue;
      add_key(places_[full], full, fmt::format("{} contradicts the weights of {}: {}", here, m.path, there));
    }
    if (m.max_position_embeddings > given.max_position_embeddings && m.rope_factor <= given.rope_factor)
      add_key(places_["model.max_position_embeddings"], "model.max_position_embeddings",
              fmt::format("{} is beyond what {} was made for, {}; rope_factor extends it",
                          m.max_position_embeddings, m.path, given.max_position_embeddings));
  }

  static Place place_of(const toml::node& node) {
    return {.line = static_cast<int64_t>(node.source().begin.line)};
  }
  static Place place_of(const toml::key& key) {
    return {.line = static_cast<int64_t>(key.source().begin.line)};
  }

  void read_sections(const toml::table& file) {
    const std::vector<ConfigSection> sections = config_sections(config_);
    for (const auto& [key, node] : file) {
      const std::string name(key.str());
      if (name == "stage") continue;
      const auto section =
          std::find_if(sections.begin(), sections.end(), [&](const auto& s) { return s.name == name; });
      if (section == sections.end()) {
        add_unknown_section(key, node, sections);
      } else if (const toml::table* table = node.as_table()) {
        read_table(*table, *section, name, all_names(sections, ""), name);
      } else {
        add_key(place_of(key), name, fmt::format("is a section: write [{}] on a line of its own", name));
      }
    }
  }

  void add_unknown_section(const toml::key& key, const toml::node& node,
                           const std::vector<ConfigSection>& sections) {
    const std::string name(key.str());
    std::vector<std::string> names = {"stage"};
    for (const ConfigSection& s : sections) names.push_back(s.name);
    std::string near = node.is_table() || node.is_array_of_tables()
                           ? nearest_words(name, names)
                           : nearest_key("", name, all_names(sections, ""));
    const char* what = node.is_table() || node.is_array_of_tables() ? "unknown section"
                                                                    : "unknown, and outside of any section";
    add(place_of(key),
        fmt::format("{}: {}{}", name, what, near.empty() ? "" : "; did you mean " + near + "?"));
  }

  // {section, key} of everything that could have been meant. Keys of stages are shown as stage.rl.lr.
  using Names = std::vector<std::pair<std::string, std::string>>;
  static Names all_names(const std::vector<ConfigSection>& sections, const std::string& prefix) {
    Names names;
    for (const ConfigSection& s : sections) {
      const std::string section = prefix.empty() ? s.name : s.name.empty() ? prefix : prefix + "." + s.name;
      for (const ConfigKey& k : s.keys) names.emplace_back(section, k.name);
    }
    return names;
  }

  // Another section costs as much as a wrong letter: train.lr is nearest to rl.lr and sft.lr.
  static std::string nearest_key(const std::string& section, const std::string& key, const Names& names) {
    std::vector<NearName> near;
    for (const auto& [s, k] : names)
      near.push_back({join_name(s, k), edit_distance(key, k), s == section ? 0 : 1});
    return nearest(key, near);
  }

  // `shown` is the full name of the section in messages, `spelled` its name among `names`.
  void read_table(const toml::table& table, const ConfigSection& section, const std::string& shown,
                  const Names& names, const std::string& spelled, const std::set<std::string>& skipped = {}) {
    places_.emplace(shown, place_of(table));
    for (const auto& [key, node] : table) {
      const std::string name(key.str()), full = join_name(shown, name);
      if (skipped.contains(name)) continue;
      const auto k = std::find_if(section.keys.begin(), section.keys.end(),
                                  [&](const auto& o) { return o.name == name; });
      if (k == section.keys.end()) {
        const std::string near = nearest_key(spelled, name, names);
        add_key(place_of(key), full, "unknown" + (near.empty() ? "" : "; did you mean " + near + "?"));
      } else {
        places_[full] = place_of(key);
        assign(*k, node, place_of(key), full);
      }
    }
  }

  void assign(const ConfigKey& key, const toml::node& node, Place place, const std::string& full) {
    const std::string problem =
        std::visit([&](auto* field) { return assign_field(field, key, node); }, key.field);
    if (!problem.empty()) add_key(place, full, problem);
  }

  // --- overrides: section.key=value, or stage.NAME.section.key=value ---

  void read_override(const std::string& text) {
    const size_t equals = text.find('=');
    const std::string name = text.substr(0, equals);
    RunConfig defaults;
    StageConfig stage_defaults;
    const bool for_stage = name.starts_with("stage.") && std::count(name.begin(), name.end(), '.') == 3;
    const size_t section_at = for_stage ? name.find('.', 6) + 1 : 0;
    const std::string section_key = name.substr(section_at);
    const Names names =
        for_stage ? all_names(stage_sections(stage_defaults), "") : all_names(config_sections(defaults), "");
    const size_t dot = section_key.find('.');
    if (equals == std::string::npos || dot == std::string::npos) {
      const std::string near = nearest_key("", name, names);
      return add({.from_set = true}, fmt::format("\"{}\" is not section.key=value{}", text,
                                                 near.empty() ? "" : "; did you mean " + near + "?"));
    }
    const std::string section = section_key.substr(0, dot), key = section_key.substr(dot + 1);
    if (std::find(names.begin(), names.end(), std::pair(section, key)) == names.end()) {
      const std::string near = nearest_key(section, key, names);
      return add({.from_set = true},
                 fmt::format("{}: unknown{}", name, near.empty() ? "" : "; did you mean " + near + "?"));
    }
    overrides_.push_back(
        {section_key, for_stage ? name.substr(6, section_at - 7) : "", text.substr(equals + 1)});
  }

  // Later overrides win. Those without a stage hold for the file's section and for every stage.
  void apply_overrides(const std::vector<ConfigSection>& sections, const std::string& stage,
                       const std::string& shown) {
    for (const bool only_this_stage : {false, true}) {
      for (const Override& o : overrides_) {
        if (only_this_stage ? stage.empty() || o.stage != stage : !o.stage.empty()) continue;
        for (const ConfigSection& s : sections) {
          for (const ConfigKey& k : s.keys) {
            if (join_name(s.name, k.name) == o.section_key)
              apply_override(o, k, join_name(shown, o.section_key));
          }
        }
      }
    }
  }

  // A table of one value; a bare word is a string.
  static toml::table parse_override(const Override& o, bool text_wanted) {
    toml::table parsed;
    try {
      parsed = toml::parse("value = " + o.text);
    } catch (const std::runtime_error&) {
      parsed.insert("value", o.text);
    }
    if (parsed.size() != 1 || !parsed.contains("value") ||
        (text_wanted && !parsed.get("value")->is_string())) {
      parsed = toml::table{{"value", o.text}};
    }
    return parsed;
  }

  void apply_override(const Override& o, const ConfigKey& key, const std::string& full) {
    const toml::table parsed = parse_override(o, std::holds_alternative<std::string*>(key.field));
    places_[full] = {.from_set = true};
    bad_keys_.erase(full);
    const std::string problem =
        std::visit([&](auto* field) { return assign_field(field, key, *parsed.get("value")); }, key.field);
    if (!problem.empty() && reported_overrides_.insert(o.section_key + "=" + o.text).second) {
      add_key({.from_set = true}, full, problem);
    }
  }

  void check_stage_overrides() {
    for (const Override& o : overrides_) {
      const auto has_name = [&](const StageConfig& s) { return s.name == o.stage; };
      if (o.stage.empty() || std::any_of(config_.stages.begin(), config_.stages.end(), has_name)) continue;
      std::vector<std::string> names;
      for (const StageConfig& s : config_.stages) names.push_back(s.name);
      add({.from_set = true}, fmt::format("stage.{}.{}: there is no such stage; the stages are {}", o.stage,
                                          o.section_key, join_words(names, ", ")));
    }
  }

  // --- stages ---

  void read_stages(const toml::table& file) {
    const toml::node* node = file.get("stage");
    if (!node) return default_stages();
    const toml::array* list = node->as_array();
    if (!list || !node->is_array_of_tables()) {
      return add_key(place_of(*node), "stage", "is a list of tables: write [[stage]]");
    }
    config_.stages.reserve(list->size());
    for (const toml::node& item : *list) read_stage(*item.as_table());
  }

  void default_stages() {
    const auto stage = [&](const char* kind) {
      return StageConfig{kind, kind, config_.sft, config_.rl, config_.task, config_.reward};
    };
    if (config_.sft.steps > 0) config_.stages.push_back(stage("sft"));
    if (config_.rl.steps > 0) config_.stages.push_back(stage("rl"));
    for (StageConfig& s : config_.stages) apply_overrides(stage_sections(s), s.name, "stage." + s.name);
  }

  void read_stage(const toml::table& table) {
    StageConfig& s = config_.stages.emplace_back(
        StageConfig{"", "", config_.sft, config_.rl, config_.task, config_.reward});
    const std::vector<ConfigSection> sections = stage_sections(s);
    const Names names = all_names(sections, "stage");
    std::set<std::string> sub_tables;
    for (size_t i = 1; i < sections.size(); ++i) sub_tables.insert(sections[i].name);
    const std::string given = table["name"].value_or(table["kind"].value_or(std::string("?")));
    const std::string shown = "stage." + given;
    read_table(table, sections[0], shown, names, "stage", sub_tables);
    if (!table.contains("kind")) add_key(place_of(table), shown + ".kind", "missing: sft, rl or rejection");
    if (s.name.empty()) s.name = given;
    for (size_t i = 1; i < sections.size(); ++i) {
      const std::string full = shown + "." + sections[i].name;
      const toml::node* node = table.get(sections[i].name);
      if (!node) continue;
      if (!node->is_table()) {
        add_key(place_of(*node), full, fmt::format("is a section: write [stage.{}]", sections[i].name));
      } else if (unread(s, sections[i])) {
        add_key(place_of(*node), full, fmt::format("a stage of kind {} does not read it", s.kind));
      } else {
        read_table(*node->as_table(), sections[i], full, names, "stage." + sections[i].name);
      }
    }
    apply_overrides(sections, s.name, shown);
  }

  std::string path_;
  const ModelReader& read_model_;
  std::vector<MissingInput>* missing_;
  bool model_known_ = true;
  RunConfig config_;
  std::vector<Override> overrides_;
  std::map<std::string, Place> places_;
  std::set<std::string> bad_keys_, reported_overrides_;
  std::vector<Problem> problems_;
};

std::string fingerprint_of(const std::vector<ConfigSection>& sections, const std::string& prefix) {
  std::string text;
  for (const ConfigSection& s : sections) {
    for (const ConfigKey& k : s.keys) {
      if (k.numerics)
        text += fmt::format("{} = {}\n", join_name(prefix, join_name(s.name, k.name)), format_value(k.field));
    }
  }
  return text;
}

}  // namespace

RunConfig load_config(const std::string& path, const std::vector<std::string>& overrides, int np,
                      const ModelReader& read_model) {
  return Loader(path, read_model).load(overrides, np);
}

RunConfig load_config_before_files(const std::string& path, const std::vector<std::string>& overrides, int np,
                                   const ModelReader& read_model, std::vector<MissingInput>& missing) {
  return Loader(path, read_model, &missing).load(overrides, np);
}

ModelConfig model_of_fingerprint(const std::string& fingerprint) {
  toml::table text;
  try {
    text = toml::parse(fingerprint);  // its lines are dotted keys
  } catch (const toml::parse_error& e) {
    fail(ExitCode::kNoCheckpoint, "the configuration in the checkpoint cannot be read: {}", e.description());
  }
  RunConfig config;
  for (const ConfigSection& s : config_sections(config)) {
    for (const ConfigKey& k : s.keys) {
      const toml::node_view<toml::node> node = text["model"][k.name];
      if (s.name != "model" || !node) continue;
      const std::string problem =
          std::visit([&](auto* field) { return assign_field(field, k, *node.node()); }, k.field);
      if (!problem.empty()) fail(ExitCode::kNoCheckpoint, "the checkpoint's model.{}: {}", k.name, problem);
    }
  }
  if (!text["model"].is_table()) fail(ExitCode::kNoCheckpoint, "the checkpoint does not say its model");
  return config.model;
}

std::string config_fingerprint(const RunConfig& config) {
  RunConfig copy = config;
  std::vector<ConfigSection> sections = config_sections(copy);
  // Stages hold what of these sections is used.
  std::erase_if(sections, [](const ConfigSection& s) {
    return s.name == "sft" || s.name == "rl" || s.name == "task" || s.name == "reward";
  });
  std::string text = fingerprint_of(sections, "");
  for (StageConfig& s : copy.stages) {
    std::vector<ConfigSection> parts = stage_sections(s);
    std::erase_if(parts, [&](const ConfigSection& p) { return unread(s, p); });
    text += fingerprint_of(parts, "stage." + s.name);
  }
  return text;
}

std::string config_text(const RunConfig& config) {
  RunConfig copy = config;
  std::string text =
      fmt::format("# Every key of the run, from {} and the command line.\n", format_value(&copy.path));
  std::map<std::string, std::string> base;  // full name, value
  for (const ConfigSection& s : config_sections(copy)) {
    text += fmt::format("\n[{}]\n", s.name);
    for (const ConfigKey& k : s.keys) {
      const std::string value = base[join_name(s.name, k.name)] = format_value(k.field);
      text += fmt::format("{} = {}\n", k.name, value);
    }
  }
  for (StageConfig& stage : copy.stages) {
    for (const ConfigSection& s : stage_sections(stage)) {
      std::string changed;
      for (const ConfigKey& k : s.keys) {
        const auto above = base.find(join_name(s.name, k.name));
        if (above == base.end() || above->second != format_value(k.field))
          changed += fmt::format("{} = {}\n", k.name, format_value(k.field));
      }
      if (changed.empty() || unread(stage, s)) continue;
      text += s.name.empty() ? "\n[[stage]]\n" : fmt::format("[stage.{}]\n", s.name);
      text += changed;
    }
  }
  return text;
}

std::string config_help() {
  RunConfig defaults;
  StageConfig stage;
  std::string text =
      "A run is one TOML file. Every key: default, meaning, [what it may be], {DeepSeek-R1-Zero's value}.\n"
      "On the command line: --set section.key=value (wins over the file, in every stage),\n"
      "                     --set stage.NAME.section.key=value (in that stage).\n";
  const auto section_text = [&](const ConfigSection& s, const std::string& header) {
    text += fmt::format("\n{}  {}\n", header, s.doc);
    for (const ConfigKey& k : s.keys) {
      const std::string r1 = k.r1_zero.empty() ? "" : fmt::format(" {{{}}}", k.r1_zero);
      text += fmt::format("  {:<27} {:<12} {} [{}]{}\n", k.name, format_value(k.field), k.doc,
                          allowed_text(k), r1);
    }
  };
  for (const ConfigSection& s : config_sections(defaults)) section_text(s, "[" + s.name + "]");
  section_text(stage_sections(stage)[0], "[[stage]]");
  text +=
      "  [stage.sft], [stage.rl], [stage.task], [stage.reward]: keys as above; what is left out comes from "
      "[sft], [rl], ...\n";
  return text;
}

}  // namespace contender
