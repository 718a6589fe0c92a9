// SwiGLU in double.
#pragma once

#include <cmath>

namespace contender::ref {

inline double silu(double g) { return g / (1 + std::exp(-g)); }
inline double swiglu(double g, double u) { return silu(g) * u; }

}  // namespace contender::ref
