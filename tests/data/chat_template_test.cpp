#include "data/chat_template.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace contender {
namespace {

using nlohmann::ordered_json;

ordered_json json_file(const std::string& path) {
  std::ifstream in(path);
  CHECK(in.good(), "{}", path);
  return ordered_json::parse(in);
}

std::string render(const std::string& source, const ordered_json& variables = ordered_json::object()) {
  return ChatTemplate(source, ordered_json::object()).render(variables).text;
}

// Cases of tools/fixtures/make_chat_cases.py.
void compare(const ordered_json& file) {
  for (const auto& group : file.at("groups")) {
    const std::string source = group.at("template").get<std::string>();
    for (const auto& c : group.at("cases")) {
      ordered_json variables = c.at("variables");
      if (variables.empty()) variables = file.at("context");
      std::string text, error;
      try {
        const MarkedText rendered = ChatTemplate(source, file.at("constants")).render(variables);
        EXPECT_EQ(rendered.text.size(), rendered.from_data.size());
        text = rendered.text;
      } catch (const std::runtime_error& e) {
        error = e.what();
      }
      if (c.contains("error")) {
        EXPECT_NE(error, "") << source << "\ngave: " << text << "\ninstead of " << c.at("error");
      } else {
        EXPECT_EQ(error, "") << source;
        if (error.empty()) {
          EXPECT_EQ(text, c.at("rendered").get<std::string>()) << source.substr(0, 200);
        }
      }
    }
  }
}

TEST(ChatTemplate, RendersWhatTransformersRenders) {
  compare(json_file("tests/fixtures/tokenizer/chat_cases.json"));
}

TEST(ChatTemplate, RendersWhatTransformersRendersOfRealTemplates) {
  const char* path = std::getenv("CHAT_CASES");
  if (!path) GTEST_SKIP() << "CHAT_CASES is not set (tools/fixtures/make_chat_cases.py)";
  compare(json_file(path));
}

TEST(ChatTemplate, DataIsMarkedThroughEveryOperation) {
  const ordered_json variables = {{"m", {{{"content", "ab<x>cd"}}}}};
  const auto marks = [&](const std::string& source) {
    MarkedText text = ChatTemplate(source, {{"bos", "<s>"}}).render(variables);
    for (char& c : text.from_data) c = c ? '1' : '0';
    return text.text + " " + text.from_data;
  };
  EXPECT_EQ(marks("{{ bos + m[0].content + '!' }}"), "<s>ab<x>cd! 00011111110");
  EXPECT_EQ(marks("{{ '<' ~ m[0].content.split('<x>')[1] }}"), "<cd 011");
  EXPECT_EQ(marks("{{ (' ' + m[0].content + ' ')|trim|upper }}"), "AB<X>CD 1111111");
  EXPECT_EQ(marks("{{ m[0].content|replace('<x>', '-') }}"), "ab-cd 11011");
  EXPECT_EQ(marks("{{ ('-' + m[0].content)[:3] }}"), "-ab 011");
  EXPECT_EQ(marks("{{ '[' + m|tojson + ']' }}"),
            "[[{\"content\": \"ab<x>cd\"}]] 0" + std::string(24, '1') + "0");
  EXPECT_EQ(marks("{% set x %}<{{ m[0].content }}>{% endset %}{{ x }}"), "<ab<x>cd> 011111110");
  EXPECT_EQ(marks("{{ m[0].content|join('<') }}"), "a<b<<<x<><c<d 1010101010101");
}

TEST(ChatTemplate, ErrorsSayWhereAndWhat) {
  const auto error = [](const std::string& source) -> std::string {
    try {
      render(source);
    } catch (const std::runtime_error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(error("a\n{% macro x() %}{% endmacro %}"), "line 2: the tag macro is not supported");
  EXPECT_EQ(error("\n{{ x|wordwrap }}"), "line 2: the filter wordwrap is not supported");
  EXPECT_EQ(error("{{ x is callable }}"), "line 1: the test callable is not supported");
  EXPECT_EQ(error("{{ raise_exception('only users') }}"), "chat template: only users");
  EXPECT_EQ(error("\n\n{{ x.y.z }}"), "chat template, line 3: x is undefined");
  EXPECT_EQ(error("{{ strftime_now('%Y') }}"), "chat template, line 1: strftime_now is undefined");
}

TEST(ChatTemplate, HasLimits) {
  EXPECT_THROW(render("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
               std::runtime_error);
  EXPECT_THROW(render("{% set n = namespace(s='aaaaaaaa') %}{% for i in range(99) %}{% set n.s = n.s + n.s "
                      "%}{% endfor %}"),
               std::runtime_error);
  EXPECT_THROW(render("{{ range(999999999999) }}"), std::runtime_error);
  std::string deep, chain = "{{ 1", parens = "{{ ", nots = "{{ ";
  for (int i = 0; i < 100000; ++i) {
    deep += "{% if 1 %}";
    chain += "+1";
    parens += "(";
    nots += "not ";
  }
  for (const std::string& source : {deep, chain + " }}", parens, nots, "{{ x" + std::string(100000, '.')})
    EXPECT_THROW(render(source), std::runtime_error);
  EXPECT_THROW(render(std::string(2 << 20, 'a')), std::runtime_error);
}

TEST(ChatTemplate, DamagedSourcesAreErrorsOrTexts) {
  const ordered_json file = json_file("tests/fixtures/tokenizer/chat_cases.json");
  const std::string source = file.at("groups")[1].at("template").get<std::string>();
  const ordered_json variables = file.at("groups")[1].at("cases")[1].at("variables");
  for (size_t at = 0; at < source.size(); at += 3) {
    for (const std::string& damaged :
         {source.substr(0, at), source.substr(0, at) + "}" + source.substr(at + 1),
          source.substr(0, at) + "\"" + source.substr(at)}) {
      try {
        render(damaged, variables);
      } catch (const std::runtime_error&) {
      }
    }
  }
}

}  // namespace
}  // namespace contender
