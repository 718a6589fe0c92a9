// Answers as text.
#pragma once

#include <string>
#include <string_view>

namespace contender {

// Without white space, dollar signs and closing punctuation at both ends.
std::string_view without_ends(std::string_view text);

// Without white space and what only lays out a formula: equal ones are equal answers.
std::string squeezed(std::string_view text);

// The words of \text{} and plain text, single spaces between them; "" for what holds formulas.
std::string plain_words(std::string_view text);

// Both are words, and the same but for case, white space and punctuation.
bool same_words(std::string_view a, std::string_view b);

}  // namespace contender
