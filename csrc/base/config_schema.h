// The table of configuration keys: each key once, with its field, what it may be, and a line of
// documentation. Parsing, checking, suggestions, help and the fingerprint all walk it.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <variant>
#include <vector>

#include "base/config.h"

namespace contender {

// A value to read or write, inside the struct that the keys were made for.
using ConfigField = std::variant<int64_t*, uint64_t*, double*, bool*, std::string*, std::vector<std::string>*,
                                 std::vector<double>*>;

struct ConfigRule {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool above_min = false;  // min itself is not allowed
  bool below_max = false;  // max itself is not allowed
  int64_t multiple_of = 1;
  std::vector<std::string> words;
};

struct ConfigKey {
  std::string name;
  ConfigField field;
  ConfigRule rule;
  std::string doc;
  std::string r1_zero;   // value in DeepSeek-R1-Zero's run, "" when it was not stated or does not apply
  bool numerics = true;  // decides the numbers of a run: part of the fingerprint
};

struct ConfigSection {
  std::string name;
  std::string doc;
  std::vector<ConfigKey> keys;
};

// Sections of a file, bound to the fields of `config`; and of one [[stage]]: "" (kind, name), sft, rl, task,
// reward.
std::vector<ConfigSection> config_sections(RunConfig& config);
std::vector<ConfigSection> stage_sections(StageConfig& stage);

std::string format_value(
    const ConfigField& field);                   // as TOML; doubles with the digits that read back the same
std::string allowed_text(const ConfigKey& key);  // "integer, at least 1", "one of k1, k2, k3"
// Empty when the value is allowed, else what is wrong: "0 is out of range: at least 1".
std::string rule_problem(const ConfigRule& rule, const ConfigField& value);

// Names to suggest for a word that is not one of them: the nearest, at most three, "" when none is near:
// "grpo or gspo".
struct NearName {
  std::string name;
  int64_t distance = 0;
  int64_t extra = 0;  // added to the distance when candidates are compared
};
std::string nearest(const std::string& word, const std::vector<NearName>& candidates);
std::string join_words(const std::vector<std::string>& words, const std::string& separator);
std::string nearest_words(const std::string& word, const std::vector<std::string>& words);
int64_t edit_distance(const std::string& a,
                      const std::string& b);  // case ignored; swaps of neighbours cost 1

// A problem between keys. `keys` are full names, the one to blame first; the others decide too.
struct ConfigProblem {
  std::vector<std::string> keys;
  std::string text;
  std::string missing;  // a file that is not there and could be
};
std::vector<ConfigProblem> check_config(const RunConfig& config, int np);

// load_config for a look at a run before its files are there: that model.path, tokenizer.path or a prompt
// file leads nowhere is no problem, as long as [model] says the shape itself. `missing` gets key and path,
// each once.
struct MissingInput {
  std::string key, path;
  bool operator==(const MissingInput&) const = default;
};
RunConfig load_config_before_files(const std::string& path, const std::vector<std::string>& overrides, int np,
                                   const ModelReader& read_model, std::vector<MissingInput>& missing);

}  // namespace contender
