// Names as a person would say them.
#pragma once

#include <string>
#include <string_view>

namespace ptxsim {

// "_ZN3foo4gemmILi128EEEvPKf" -> "foo::gemm<128>"; "_ZZ..E4tile" -> "tile" (a variable of a function).
// Parameters, return types and "(anonymous namespace)::" are left out. What is not mangled stays.
std::string short_name(std::string_view mangled);

}  // namespace ptxsim
