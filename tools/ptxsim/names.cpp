#include "names.h"

#include <cxxabi.h>

#include <cstdlib>

namespace ptxsim {

std::string short_name(std::string_view mangled) {
  int status = 0;
  char* text = abi::__cxa_demangle(std::string(mangled).c_str(), nullptr, nullptr, &status);
  if (status != 0 || !text) return std::string(mangled);
  std::string name = text;
  std::free(text);
  constexpr std::string_view kAnonymous = "(anonymous namespace)::";
  for (size_t at; (at = name.find(kAnonymous)) != std::string::npos;) name.erase(at, kAnonymous.size());
  // What stands outside of <> and (): "void f<int>(float*)::tile".
  int depth = 0;
  size_t begin = 0, end = name.size();
  bool parameters = false;
  for (size_t k = 0; k < name.size(); ++k) {
    const char c = name[k];
    if (c == '(' && depth == 0 && !parameters) {
      parameters = true;
      end = k;
    }
    if (c == '<' || c == '(') ++depth;
    if (c == '>' || c == ')') --depth;
    if (depth != 0) continue;
    if (c == ' ' && !parameters) begin = k + 1;
    if (c == ':' && parameters) {  // a variable behind the parameters of its function
      begin = k + 1;
      end = name.size();
    }
  }
  return name.substr(begin, end - begin);
}

}  // namespace ptxsim
