// An elementwise loop whose elements have the same bits whatever their place: full vectors, then single
// elements.
#pragma once

#include "cpu/vec_math.h"

namespace contender::cpu {

// Calls step(tag, i): the body handles the elements i .. i + Lanes(tag) - 1.
template <class Step>
HWY_INLINE void for_each_vector(int64_t n, const Step& step) {
  int64_t i = 0;
  for (; i + kFloatLanes <= n; i += kFloatLanes) step(FloatTag(), i);
  for (; i < n; ++i) step(hn::CappedTag<float, 1>(), i);
}

}  // namespace contender::cpu
