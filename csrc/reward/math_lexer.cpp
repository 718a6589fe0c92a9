#include "reward/math_lexer.h"

#include <algorithm>
#include <array>
#include <unordered_map>
#include <unordered_set>

#include "reward/completion.h"

namespace contender {
namespace {

constexpr size_t kMaxBytes = 8 << 10;

struct Spelling {
  std::string_view written, means;
};

// Characters beyond ASCII, as LaTeX.
constexpr std::array kCharacters = {
    Spelling{"−", "-"},
    Spelling{"–", "-"},
    Spelling{"×", "\\times "},
    Spelling{"·", "\\cdot "},
    Spelling{"⋅", "\\cdot "},
    Spelling{"÷", "/"},
    Spelling{"∕", "/"},
    Spelling{"⁄", "/"},
    Spelling{"√", "\\sqrt "},
    Spelling{"π", "\\pi "},
    Spelling{"∞", "\\infty "},
    Spelling{"°", "^\\circ "},
    Spelling{"≤", "\\le "},
    Spelling{"≥", "\\ge "},
    Spelling{"⩽", "\\le "},
    Spelling{"⩾", "\\ge "},
    Spelling{"≠", "\\ne "},
    Spelling{"≈", "\\approx "},
    Spelling{"±", "\\pm "},
    Spelling{"∓", "\\mp "},
    Spelling{"∪", "\\cup "},
    Spelling{"∩", "\\cap "},
    Spelling{"∖", "\\setminus "},
    Spelling{"∈", "\\in "},
    Spelling{"∅", "\\emptyset "},
    Spelling{"ℝ", "\\reals "},
    Spelling{"ℤ", "\\integers "},
    Spelling{"⟨", "\\langle "},
    Spelling{"⟩", "\\rangle "},
    Spelling{"¼", "\\frac{1}{4}"},
    Spelling{"½", "\\frac{1}{2}"},
    Spelling{"¾", "\\frac{3}{4}"},
    Spelling{"⅓", "\\frac{1}{3}"},
    Spelling{"⅔", "\\frac{2}{3}"},
    Spelling{"⁰", "^{0}"},
    Spelling{"¹", "^{1}"},
    Spelling{"²", "^{2}"},
    Spelling{"³", "^{3}"},
    Spelling{"⁴", "^{4}"},
    Spelling{"⁵", "^{5}"},
    Spelling{"⁶", "^{6}"},
    Spelling{"⁷", "^{7}"},
    Spelling{"⁸", "^{8}"},
    Spelling{"⁹", "^{9}"},
    Spelling{"α", "\\alpha "},
    Spelling{"β", "\\beta "},
    Spelling{"γ", "\\gamma "},
    Spelling{"δ", "\\delta "},
    Spelling{"ε", "\\epsilon "},
    Spelling{"θ", "\\theta "},
    Spelling{"λ", "\\lambda "},
    Spelling{"μ", "\\mu "},
    Spelling{"ρ", "\\rho "},
    Spelling{"σ", "\\sigma "},
    Spelling{"τ", "\\tau "},
    Spelling{"φ", "\\phi "},
    Spelling{"ω", "\\omega "},
    Spelling{"Δ", "\\Delta "},
    Spelling{"€", ""},
    Spelling{"£", ""},
    Spelling{"\u00a0", " "},
    Spelling{"\u2009", " "},
    Spelling{"\u202f", " "},
    Spelling{"，", ","},
};

// Commands that are a mark.
constexpr std::array kMarks = {
    Spelling{"times", "*"},     Spelling{"cdot", "*"},        Spelling{"ast", "*"},
    Spelling{"div", "/"},       Spelling{"le", "<="},         Spelling{"leq", "<="},
    Spelling{"leqslant", "<="}, Spelling{"ge", ">="},         Spelling{"geq", ">="},
    Spelling{"geqslant", ">="}, Spelling{"lt", "<"},          Spelling{"gt", ">"},
    Spelling{"ne", "!="},       Spelling{"neq", "!="},        Spelling{"approx", "~"},
    Spelling{"pm", "+-"},       Spelling{"mp", "-+"},         Spelling{"cup", "cup"},
    Spelling{"cap", "cap"},     Spelling{"setminus", "\\"},   Spelling{"backslash", "\\"},
    Spelling{"in", "in"},       Spelling{"vert", "|"},        Spelling{"lvert", "|"},
    Spelling{"rvert", "|"},     Spelling{"mid", "|"},         Spelling{"langle", "<("},
    Spelling{"rangle", ")>"},   Spelling{"lbrace", "\\{"},    Spelling{"rbrace", "\\}"},
    Spelling{"lbrack", "["},    Spelling{"rbrack", "]"},      Spelling{"lparen", "("},
    Spelling{"rparen", ")"},    Spelling{"lfloor", "lfloor"}, Spelling{"rfloor", "rfloor"},
    Spelling{"lceil", "lceil"}, Spelling{"rceil", "rceil"},   Spelling{"circ", "deg"},
    Spelling{"degree", "deg"},  Spelling{"colon", ":"},       Spelling{"prime", "'"},
    Spelling{"land", ","},      Spelling{"lor", ","},         Spelling{"wedge", ","},
    Spelling{"vee", ","},
};

const std::unordered_set<std::string_view> kLayout = {
    "left",  "right", "big",   "Big",    "bigg",         "Bigg",      "bigl",   "bigr",     "Bigl",
    "Bigr",  "biggl", "biggr", "middle", "displaystyle", "textstyle", "limits", "nolimits", "quad",
    "qquad", "boxed", "fbox",  "rm",     "bf",           "it",        "hspace", "thinspace"};

// Commands with an argument of words, and those that only change how letters look.
const std::unordered_set<std::string_view> kTextCommands = {"text",   "textbf", "textit",     "textrm",
                                                            "mbox",   "hbox",   "textnormal", "textsf",
                                                            "texttt", "emph",   "unit",       "textsc"};
const std::unordered_set<std::string_view> kFonts = {
    "mathrm", "mathbf", "mathit", "mathsf", "mathcal", "mathtt", "bm", "boldsymbol", "operatorname"};

// What takes arguments, under one name each.
const std::unordered_map<std::string_view, std::string_view> kNames = {
    {"frac", "frac"},     {"dfrac", "frac"},  {"tfrac", "frac"},        {"cfrac", "frac"},
    {"sqrt", "sqrt"},     {"binom", "binom"}, {"dbinom", "binom"},      {"tbinom", "binom"},
    {"sin", "sin"},       {"cos", "cos"},     {"tan", "tan"},           {"cot", "cot"},
    {"sec", "sec"},       {"csc", "csc"},     {"arcsin", "arcsin"},     {"asin", "arcsin"},
    {"arccos", "arccos"}, {"acos", "arccos"}, {"arctan", "arctan"},     {"atan", "arctan"},
    {"sinh", "sinh"},     {"cosh", "cosh"},   {"tanh", "tanh"},         {"log", "log"},
    {"ln", "log"},        {"lg", "lg"},       {"exp", "exp"},           {"abs", "abs"},
    {"Abs", "abs"},       {"floor", "floor"}, {"ceil", "ceil"},         {"factorial", "factorial"},
    {"max", "max"},       {"min", "min"},     {"gcd", "gcd"},           {"lcm", "lcm"},
    {"begin", "begin"},   {"end", "end"},     {"overline", "overline"}, {"cbrt", "cbrt"}};

// Letters with a name. Other commands are no mathematics of ours: angles, sums, vectors.
const std::unordered_map<std::string_view, std::string_view> kSymbols = {{"infty", "oo"},
                                                                         {"emptyset", "empty"},
                                                                         {"varnothing", "empty"},
                                                                         {"reals", "reals"},
                                                                         {"R", "reals"},
                                                                         {"integers", "integers"},
                                                                         {"Z", "integers"},
                                                                         {"imath", "i"},
                                                                         {"varphi", "phi"},
                                                                         {"varepsilon", "epsilon"},
                                                                         {"vartheta", "theta"},
                                                                         {"ell", "ell"},
                                                                         {"alpha", "alpha"},
                                                                         {"beta", "beta"},
                                                                         {"gamma", "gamma"},
                                                                         {"delta", "delta"},
                                                                         {"epsilon", "epsilon"},
                                                                         {"zeta", "zeta"},
                                                                         {"eta", "eta"},
                                                                         {"theta", "theta"},
                                                                         {"iota", "iota"},
                                                                         {"kappa", "kappa"},
                                                                         {"lambda", "lambda"},
                                                                         {"mu", "mu"},
                                                                         {"nu", "nu"},
                                                                         {"xi", "xi"},
                                                                         {"pi", "pi"},
                                                                         {"rho", "rho"},
                                                                         {"sigma", "sigma"},
                                                                         {"tau", "tau"},
                                                                         {"upsilon", "upsilon"},
                                                                         {"phi", "phi"},
                                                                         {"chi", "chi"},
                                                                         {"psi", "psi"},
                                                                         {"omega", "omega"},
                                                                         {"Gamma", "Gamma"},
                                                                         {"Delta", "Delta"},
                                                                         {"Theta", "Theta"},
                                                                         {"Lambda", "Lambda"},
                                                                         {"Pi", "Pi"},
                                                                         {"Sigma", "Sigma"},
                                                                         {"Phi", "Phi"},
                                                                         {"Psi", "Psi"},
                                                                         {"Omega", "Omega"}};

// Plain runs of letters that are units where a number stands before them.
const std::unordered_set<std::string_view> kShortUnits = {
    "cm",  "mm", "km",  "kg", "mg",  "ml",  "mL",  "ft",  "in",  "yd", "mi",
    "oz",  "lb", "lbs", "hr", "hrs", "min", "sec", "mph", "kmh", "cc", "sq",
    "rad", "am", "pm",  "AM", "PM",  "dB",  "Hz",  "eV",  "kW",  "ms", "ns"};

// Words that multiply the number before them.
const std::unordered_map<std::string_view, std::string_view> kScales = {
    {"dozen", "12"},        {"hundred", "100"},        {"thousand", "1000"},
    {"million", "1000000"}, {"billion", "1000000000"}, {"trillion", "1000000000000"}};

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '~'; }

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
  return lower;
}

class Lexer {
 public:
  explicit Lexer(std::string text, int level = 0) : text_(std::move(text)), level_(level) {}

  std::vector<Token> tokens() {
    while (at_ < text_.size()) next();
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  char peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }
  std::string_view rest() const { return std::string_view(text_).substr(at_); }
  bool starts(std::string_view what) const { return rest().starts_with(what); }
  size_t digits_at(size_t at) const {
    size_t end = at;
    while (end < text_.size() && is_digit(text_[end])) ++end;
    return end - at;
  }

  void add(TokenKind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), spaced_});
    spaced_ = false;
  }
  void mark(std::string_view text) {
    if (text == "(" || text == "[" || text == "\\{") ++depth_;
    if (text == ")" || text == "]" || text == "\\}") --depth_;
    add(TokenKind::kMark, std::string(text));
  }

  void next() {
    const char c = peek();
    if (is_space(c)) {
      ++at_;
      spaced_ = true;
    } else if (is_digit(c) || (c == '.' && is_digit(peek(1)))) {
      number();
    } else if (is_letter(c)) {
      letters();
    } else if (c == '\\') {
      command();
    } else {
      other(c);
    }
  }

  // Bytes of what separates groups of three digits here: a comma, plain or in braces, thin spaces, one plain
  // space. 0 when there is none. "1, 200" is a list.
  size_t separator() const {
    size_t at = at_;
    bool comma = false, thin = false, space = false;
    for (;;) {
      const std::string_view left = std::string_view(text_).substr(at);
      const size_t braced = left.starts_with("{,}") ? 3 : left.starts_with("{, }") ? 4 : 0;
      if (braced > 0 && !comma) {
        comma = thin = true;
        at += braced;
      } else if (left.starts_with(',') && !comma && depth_ == 0) {
        comma = true;
        ++at;
      } else if (left.starts_with("\\,") || left.starts_with("\\!") || left.starts_with("\\ ")) {
        thin = true;
        at += 2;
      } else if ((left.starts_with(' ') || left.starts_with('~')) && !space) {
        space = true;
        ++at;
      } else {
        return comma && space && !thin ? 0 : at - at_;
      }
    }
  }

  void number() {
    size_t digits = digits_at(at_);
    std::string value = text_.substr(at_, digits);
    at_ += digits;
    for (bool grouped = digits >= 1 && digits <= 3 && value[0] != '0'; grouped;) {
      const size_t skip = separator();
      grouped = skip > 0 && digits_at(at_ + skip) == 3;
      if (!grouped) break;
      value += text_.substr(at_ + skip, 3);
      at_ += skip + 3;
    }
    if (peek() == '.' && (digits > 0 || is_digit(peek(1))) && peek(1) != '.') {
      digits = digits_at(at_ + 1);
      value += text_.substr(at_, digits + 1);
      at_ += digits + 1;
      repeating_digits(&value);
    }
    const size_t sign = peek(1) == '+' || peek(1) == '-' ? 1 : 0;
    if ((peek() == 'e' || peek() == 'E') && is_digit(peek(1 + sign))) {
      digits = digits_at(at_ + 1 + sign);
      value += text_.substr(at_, 1 + sign + digits);
      at_ += 1 + sign + digits;
    }
    add(TokenKind::kNumber, std::move(value));
  }

  void repeating_digits(std::string* value) {
    constexpr std::string_view kBar = "\\overline{";
    if (!starts(kBar)) return;
    const size_t digits = digits_at(at_ + kBar.size());
    const size_t end = at_ + kBar.size() + digits;
    if (digits == 0 || end >= text_.size() || text_[end] != '}') return;
    *value += "(" + text_.substr(at_ + kBar.size(), digits) + ")";
    at_ = end + 1;
  }

  void letters() {
    size_t end = at_;
    while (end < text_.size() && is_letter(text_[end])) ++end;
    const std::string run = text_.substr(at_, end - at_);
    at_ = end;
    const bool behind_value = this->behind_value();
    const std::string lower = lower_case(run);
    if (run.size() == 1 && behind_words()) {
      add(TokenKind::kText, run);
    } else if (lower != "and" && lower != "or" && behind_words()) {
      words(run);
    } else if (behind_value && (kShortUnits.contains(run) || (run == "m" && starts("/s")))) {
      add(TokenKind::kText, run);
    } else if (lower == "and" || lower == "or") {
      mark(",");
    } else if (run == "pi" || run == "theta" || run == "alpha" || run == "beta") {
      add(TokenKind::kSymbol, run);
    } else if (lower == "infinity" || lower == "inf") {
      add(TokenKind::kSymbol, "oo");
    } else if (const auto name = kNames.find(run); name != kNames.end() && run != "begin" && run != "end") {
      add(TokenKind::kName, std::string(name->second));
    } else if (run == "U" && spaced_ && is_space(peek())) {
      mark("cup");
    } else if (run.size() >= 4 || (run.size() == 3 && spaced_ && behind_value)) {
      words(run);
    } else {
      for (const char letter : run) add(TokenKind::kSymbol, std::string(1, letter));
    }
  }

  bool behind_value() const {
    return !tokens_.empty() && (tokens_.back().kind == TokenKind::kNumber || tokens_.back().text == "}" ||
                                tokens_.back().text == ")");
  }

  // Where words go on: behind a word and a space, or behind km/.
  bool behind_words() const {
    const size_t n = tokens_.size();
    if (n > 0 && tokens_[n - 1].kind == TokenKind::kText) return spaced_;
    return n > 1 && tokens_[n - 1].text == "/" && tokens_[n - 2].kind == TokenKind::kText;
  }

  // Words that are marks in disguise, or just words.
  void words(std::string_view content) {
    const std::string text(trimmed(content));
    const std::string lower = lower_case(text);
    const size_t first = std::min(lower.find(' '), lower.size());
    const auto scale = kScales.find(std::string_view(lower).substr(0, first));
    if (text.empty()) {
      spaced_ = true;
    } else if (scale != kScales.end() && behind_value()) {
      mark("*");
      add(TokenKind::kNumber, std::string(scale->second));
      words(std::string_view(text).substr(first));
    } else if (lower == "and" || lower == "or" || lower == "," || lower == ", and" || lower == ", or") {
      mark(",");
    } else if (lower == "percent" || lower == "percentage" || lower == "pct" || text == "\\%" ||
               text == "%") {
      mark("%");
    } else if (lower == "degrees" || lower == "degree" || lower == "deg") {
      mark("^");
      mark("deg");
    } else if (lower == "all real numbers" || lower == "all reals") {
      add(TokenKind::kSymbol, "reals");
    } else if (text.size() == 1 && is_letter(text[0])) {
      add(TokenKind::kSymbol, text);
    } else if (tokens_.size() > 0 && tokens_.back().kind == TokenKind::kText &&
               tokens_.back().text[0] != '\\') {
      tokens_.back().text += " " + text;
      spaced_ = false;
    } else {
      add(TokenKind::kText, text);
    }
  }

  // The text of the {...} here, without the braces; none when there is no brace.
  std::string braced() {
    while (at_ < text_.size() && is_space(text_[at_])) ++at_;
    if (peek() != '{') return "";
    const size_t begin = at_ + 1;
    for (int depth = 0; at_ < text_.size(); ++at_) {
      if (text_[at_] == '{') ++depth;
      if (text_[at_] == '}' && --depth == 0) return text_.substr(begin, at_++ - begin);
    }
    throw Unreadable("a brace is not closed");
  }

  void command() {
    ++at_;
    if (!is_letter(peek())) return escaped();
    size_t end = at_;
    while (end < text_.size() && is_letter(text_[end])) ++end;
    const std::string name = text_.substr(at_, end - at_);
    at_ = end;
    const auto is_mark =
        std::find_if(kMarks.begin(), kMarks.end(), [&](const Spelling& s) { return s.written == name; });
    if (kLayout.contains(name)) {
      if ((name == "left" || name == "right") && peek() == '.') ++at_;  // no bracket
      spaced_ = true;
    } else if (is_mark != kMarks.end()) {
      mark(is_mark->means);
    } else if (kTextCommands.contains(name)) {
      text_command();
    } else if (kFonts.contains(name)) {
      font();
    } else if (name == "mathbb") {
      const std::string set = braced();
      add(TokenKind::kSymbol, set == "R" ? "reals" : set == "Z" ? "integers" : "set " + set);
    } else if (const auto function = kNames.find(name); function != kNames.end()) {
      add(TokenKind::kName, std::string(function->second));
      if (name == "begin" || name == "end") add(TokenKind::kText, "\\" + braced());
    } else if (const auto symbol = kSymbols.find(name); symbol != kSymbols.end()) {
      add(TokenKind::kSymbol, std::string(symbol->second));
    } else {
      throw Unreadable("\\" + name);
    }
  }

  void font() {
    const std::string content = braced();
    const std::string plain(trimmed(content));
    if (const auto name = kNames.find(plain); name != kNames.end())
      return add(TokenKind::kName, std::string(name->second));
    std::all_of(plain.begin(), plain.end(), [](char c) { return is_letter(c) || is_space(c); })
        ? words(plain)
        : formula(plain);
  }

  void text_command() {
    const std::string content = braced();
    const bool digits = content.find_first_of("0123456789") != content.npos;
    digits&& std::none_of(content.begin(), content.end(), is_letter) ? formula(content) : words(content);
  }

  // What stands in an argument, as if it stood outside.
  void formula(const std::string& content) {
    if (level_ == kMaxLevels) throw Unreadable("nested too deep");
    std::vector<Token> inner = Lexer(content, level_ + 1).tokens();
    inner.pop_back();
    tokens_.insert(tokens_.end(), inner.begin(), inner.end());
    spaced_ = false;
  }

  void escaped() {
    const char c = peek();
    ++at_;
    if (c == '{' || c == '}') return mark(c == '{' ? "\\{" : "\\}");
    if (c == '\\' && doubled_command()) return;
    if (c == '\\') return mark("\\\\");
    if (c == '%') return mark("%");
    if (c == '|') return mark("|");
    // Thin spaces and the dollar sign say nothing; `\(` and `\[` open formulas.
    spaced_ = true;
  }

  // Two backslashes before a name: escaped once too often, as in JSON in JSON.
  bool doubled_command() {
    size_t end = at_;
    while (end < text_.size() && is_letter(text_[end])) ++end;
    const std::string_view name = std::string_view(text_).substr(at_, end - at_);
    if (!is_command(name)) return false;
    --at_;
    command();
    return true;
  }

  static bool is_command(std::string_view name) {
    return kLayout.contains(name) || kTextCommands.contains(name) || kFonts.contains(name) ||
           kNames.contains(name) || kSymbols.contains(name) ||
           std::any_of(kMarks.begin(), kMarks.end(), [&](const Spelling& s) { return s.written == name; });
  }

  void other(char c) {
    if (static_cast<unsigned char>(c) >= 0x80) throw Unreadable("a character that is no mathematics");
    for (const std::string_view two : {"**", "<=", ">=", "!=", "=="}) {
      if (!starts(two)) continue;
      at_ += 2;
      return mark(two == "**" ? "^" : two == "==" ? "=" : two);
    }
    ++at_;
    if (c == '$' || c == '"' || c == '`') {
      spaced_ = true;
    } else if (std::string_view("+-*/^_=<>|!'%,;:()[]{}&.").find(c) != std::string_view::npos) {
      mark(std::string_view(&c, 1));
    } else {
      throw Unreadable("a character that is no mathematics");
    }
  }

  static constexpr int kMaxLevels = 16;

  const std::string text_;
  const int level_;
  size_t at_ = 0;
  int depth_ = 0;  // brackets open: no thousands separators between elements
  bool spaced_ = false;
  std::vector<Token> tokens_;
};

// Inside \text{} other scripts may stay: only characters with a LaTeX name are replaced.
std::string in_ascii(std::string_view text) {
  std::string ascii;
  for (size_t i = 0; i < text.size();) {
    const auto known = static_cast<unsigned char>(text[i]) < 0x80
                           ? kCharacters.end()
                           : std::find_if(kCharacters.begin(), kCharacters.end(), [&](const Spelling& s) {
                               return text.substr(i).starts_with(s.written);
                             });
    ascii += known == kCharacters.end() ? text.substr(i, 1) : known->means;
    i += known == kCharacters.end() ? 1 : known->written.size();
  }
  return ascii;
}

}  // namespace

std::vector<Token> math_tokens(std::string_view text) {
  if (text.size() > kMaxBytes) throw Unreadable("more than 8 KiB");
  return Lexer(in_ascii(text)).tokens();
}

}  // namespace contender
