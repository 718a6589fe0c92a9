// What cvt shares between scalar values (convert.cpp) and packed ones (convert_packed.cpp).
#pragma once

#include "exec/alu.h"
#include "exec/half_vector.h"

namespace ptxsim::alu {

// f32 -> f16 or bf16, to nearest even.
template <class H>
void narrow_row(Warp& w, const Instr& i) {
  const float* a = row<float>(w, i.a);
  uint16_t* d = row<uint16_t>(w, i.d);
  const uint32_t mask = active(w, i);
  alignas(64) uint16_t all[kWarpSize];
  uint16_t* to = mask == kAllLanes ? d : all;
  for (int l = 0; l < kWarpSize; l += kVector<float>) H::narrow(hn::LoadU(kF32, a + l), to + l);
  if (to != d) blend(mask, d, all);
}

// .relu: negative values and -0 become 0, NaN stays.
inline constexpr auto kReluF32 = [](float x) {
  return std::bit_cast<float>(numeric::relu_f32(std::bit_cast<uint32_t>(x)));
};

// cvt into or out of f16x2, bf16x2, e4m3x2, e5m2x2, into tf32, and cvt.pack.
bool decode_packed_convert(Decoder& d, const ptx::Instruction& in);  // exec/convert_packed.cpp

}  // namespace ptxsim::alu
