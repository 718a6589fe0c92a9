// JSON from outside: everything that two parsers could read in two ways is refused.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

namespace contender {

// The one JSON value of `text`. Throws std::runtime_error, with a short reason, for anything that is not
// exactly one value in valid UTF-8, for an object with the same key twice, a number that no double holds, and
// nesting deeper than 32. Memory: a small multiple of the text.
nlohmann::json parse_strict_json(std::string_view text);

}  // namespace contender
