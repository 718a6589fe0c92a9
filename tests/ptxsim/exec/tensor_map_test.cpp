#include "tensor_map.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace ptxsim {
namespace {

// Arguments of a valid cuTensorMapEncodeTiled; tests change one and look at the answer.
struct Tiled {
  alignas(128) uint64_t words[16];
  uint32_t type = 9, rank = 3;  // bf16
  uint64_t address = 0x7f0000001230;
  uint64_t dims[5] = {200, 300, 7, 5, 3};
  uint64_t strides[4] = {416, 416 * 300, 416 * 2100, 416 * 10500};
  uint32_t box[5] = {64, 128, 2, 1, 1};
  uint32_t steps[5] = {1, 1, 2, 1, 1};
  uint32_t interleave = 0, swizzle = 3, l2 = 2, fill = 0;
  std::string why;

  int encode() {
    std::memset(words, 0xa5, sizeof words);
    return encode_tiled(words, type, rank, reinterpret_cast<const void*>(address), dims, strides, box, steps,
                        interleave, swizzle, l2, fill, &why);
  }
};

TEST(TensorMapEncode, KeepsEveryField) {
  Tiled t;
  t.rank = 5;
  t.fill = 1;
  ASSERT_EQ(t.encode(), kCuSuccess) << t.why;
  const std::optional<TensorMap> m = decode_tensor_map(t.words);
  ASSERT_TRUE(m);
  EXPECT_EQ(m->address, t.address);
  EXPECT_EQ(m->type, TensorType::kBf16);
  EXPECT_EQ(m->rank, 5);
  EXPECT_EQ(m->swizzle, Swizzle::k128);
  EXPECT_EQ(m->l2_promotion, 2);
  EXPECT_TRUE(m->nan_fill);
  EXPECT_FALSE(m->im2col);
  EXPECT_EQ(m->stride[0], 2u);
  for (int d = 0; d < 5; ++d) {
    EXPECT_EQ(m->dim[d], t.dims[d]);
    EXPECT_EQ(m->box[d], t.box[d]);
    EXPECT_EQ(m->step[d], t.steps[d]);
    if (d > 0) {
      EXPECT_EQ(m->stride[d], t.strides[d - 1]);
    }
  }
}

TEST(TensorMapEncode, KeepsTheLargestValues) {
  Tiled t;
  t.rank = 2;
  t.type = 0;
  t.dims[0] = t.dims[1] = uint64_t{1} << 32;
  t.strides[0] = (uint64_t{1} << 40) - 16;
  t.box[0] = t.box[1] = 256;
  t.steps[1] = 8;
  t.swizzle = 0;
  ASSERT_EQ(t.encode(), kCuSuccess) << t.why;
  const std::optional<TensorMap> m = decode_tensor_map(t.words);
  ASSERT_TRUE(m);
  EXPECT_EQ(m->dim[1], uint64_t{1} << 32);
  EXPECT_EQ(m->stride[1], t.strides[0]);
  EXPECT_EQ(m->box[0], 256u);
  EXPECT_EQ(m->step[1], 8u);
  EXPECT_EQ(m->dim[2], 1u) << "dimensions beyond the rank count once";
  EXPECT_EQ(m->stride[2], 0u);
}

TEST(TensorMapEncode, RefusesWhatTheDriverRefuses) {
  const std::vector<std::pair<std::string, std::function<void(Tiled&)>>> cases = {
      {"tensorDataType 16", [](Tiled& t) { t.type = 16; }},
      {"packed", [](Tiled& t) { t.type = 13; }},
      {"tensorRank 0", [](Tiled& t) { t.rank = 0; }},
      {"tensorRank 6", [](Tiled& t) { t.rank = 6; }},
      {"aligned to 16", [](Tiled& t) { t.address += 8; }},
      {"globalDim[1] = 0", [](Tiled& t) { t.dims[1] = 0; }},
      {"globalDim[2]", [](Tiled& t) { t.dims[2] = (uint64_t{1} << 32) + 1; }},
      {"globalStrides[0]", [](Tiled& t) { t.strides[0] = 408; }},
      {"globalStrides[1]", [](Tiled& t) { t.strides[1] = uint64_t{1} << 40; }},
      {"boxDim[1] = 257", [](Tiled& t) { t.box[1] = 257; }},
      {"boxDim[2] = 0", [](Tiled& t) { t.box[2] = 0; }},
      {"elementStrides[1] = 9", [](Tiled& t) { t.steps[1] = 9; }},
      {"elementStrides[2] = 0", [](Tiled& t) { t.steps[2] = 0; }},
      {"not a multiple of 16", [](Tiled& t) { t.box[0] = 60; }},
      {"more than the 128", [](Tiled& t) { t.box[0] = 72; }},
      {"more than the 64", [](Tiled& t) { t.swizzle = 2; }},
      {"more than the 32", [](Tiled& t) { t.swizzle = 1; }},
      {"swizzle 4", [](Tiled& t) { t.swizzle = 4; }},
      {"swizzle 7", [](Tiled& t) { t.swizzle = 7; }},
      {"interleave 3", [](Tiled& t) { t.interleave = 3; }},
      {"needs swizzle 32B",
       [](Tiled& t) {
         t.interleave = 2;
         t.address = 0x1000;
         t.strides[0] = 448;
       }},
      {"at least 3",
       [](Tiled& t) {
         t.interleave = 1;
         t.rank = 2;
       }},
      {"l2Promotion 4", [](Tiled& t) { t.l2 = 4; }},
      {"oobFill 2", [](Tiled& t) { t.fill = 2; }},
      {"floating-point",
       [](Tiled& t) {
         t.fill = 1;
         t.type = 1;
       }},
  };
  for (const auto& [reason, change] : cases) {
    Tiled t;
    change(t);
    EXPECT_EQ(t.encode(), kCuErrorInvalidValue) << reason;
    EXPECT_NE(t.why.find(reason), std::string::npos) << reason << " / " << t.why;
    EXPECT_EQ(t.words[0], 0xa5a5a5a5a5a5a5a5u) << "the map must stay as it was: " << reason;
  }
}

TEST(TensorMapEncode, IgnoresTheFirstElementStrideWithoutInterleave) {
  Tiled t;
  t.steps[0] = 0;
  ASSERT_EQ(t.encode(), kCuSuccess) << t.why;
  EXPECT_EQ(decode_tensor_map(t.words)->step[0], 1u);
}

TEST(TensorMapEncode, RefusesNullAndMisalignedMaps) {
  Tiled t;
  EXPECT_EQ(
      encode_tiled(nullptr, t.type, t.rank, nullptr, t.dims, t.strides, t.box, t.steps, 0, 3, 0, 0, nullptr),
      kCuErrorInvalidValue);
  EXPECT_EQ(encode_tiled(t.words + 1, t.type, t.rank, nullptr, t.dims, t.strides, t.box, t.steps, 0, 3, 0, 0,
                         &t.why),
            kCuErrorInvalidValue);
  EXPECT_NE(t.why.find("64 bytes"), std::string::npos);
  EXPECT_EQ(
      encode_tiled(t.words, t.type, t.rank, nullptr, t.dims, nullptr, t.box, t.steps, 0, 3, 0, 0, &t.why),
      kCuErrorInvalidValue);
}

TEST(TensorMapDecode, Bit21OfTheSecondWordIsFree) {
  for (int set = 0; set < 2; ++set) {
    Tiled t;
    ASSERT_EQ(t.encode(), kCuSuccess);
    const uint64_t bit = uint64_t{1} << 21;
    t.words[1] = set ? t.words[1] | bit : t.words[1] & ~bit;
    const std::optional<TensorMap> m = decode_tensor_map(t.words);
    ASSERT_TRUE(m);
    EXPECT_EQ(m->rank, 3);
    EXPECT_EQ(m->dim[0], 200u);
    EXPECT_EQ(m->type, TensorType::kBf16);
  }
}

TEST(TensorMapDecode, OtherBytesAreNoMap) {
  alignas(64) uint64_t words[16];
  for (int fill : {0, 0xff, 0xcd, 0x7f}) {
    std::memset(words, fill, sizeof words);
    EXPECT_FALSE(decode_tensor_map(words));
    EXPECT_FALSE(replace_field(words, "rank", 0, 1).empty());
  }
}

TEST(TensorMapReplace, EveryField) {
  Tiled t;
  ASSERT_EQ(t.encode(), kCuSuccess);
  const auto replace = [&](const char* field, uint32_t ordinal, uint64_t value) {
    return replace_field(t.words, field, ordinal, value);
  };
  EXPECT_EQ(replace("global_address", 0, 0x7000), "");
  EXPECT_EQ(replace("rank", 0, 3), "");
  EXPECT_EQ(replace("box_dim", 0, 32), "");
  EXPECT_EQ(replace("global_dim", 3, 11), "");
  EXPECT_EQ(replace("global_stride", 2, 4096), "");
  EXPECT_EQ(replace("element_stride", 1, 4), "");
  EXPECT_EQ(replace("elemtype", 0, 8), "");
  EXPECT_EQ(replace("swizzle_mode", 0, 2), "");
  EXPECT_EQ(replace("fill_mode", 0, 1), "");
  EXPECT_EQ(replace("interleave_layout", 0, 0), "");
  const std::optional<TensorMap> m = decode_tensor_map(t.words);
  ASSERT_TRUE(m);
  EXPECT_EQ(m->address, 0x7000u);
  EXPECT_EQ(m->rank, 4);
  EXPECT_EQ(m->box[0], 32u);
  EXPECT_EQ(m->dim[3], 11u);
  EXPECT_EQ(m->dim[2], 7u);
  EXPECT_EQ(m->stride[3], 4096u);
  EXPECT_EQ(m->step[1], 4u);
  EXPECT_EQ(m->type, TensorType::kF32Ftz) << "PTX numbers the types in its own order";
  EXPECT_EQ(m->stride[0], 4u);
  EXPECT_EQ(m->swizzle, Swizzle::k64);
  EXPECT_TRUE(m->nan_fill);
}

TEST(TensorMapReplace, RefusesValuesOutOfRange) {
  Tiled t;
  ASSERT_EQ(t.encode(), kCuSuccess);
  const auto refused = [&](const char* field, uint32_t ordinal, uint64_t value) {
    return !replace_field(t.words, field, ordinal, value).empty();
  };
  EXPECT_TRUE(refused("global_address", 0, 0x7008));
  EXPECT_TRUE(refused("rank", 0, 5));
  EXPECT_TRUE(refused("box_dim", 1, 257));
  EXPECT_TRUE(refused("box_dim", 5, 1));
  EXPECT_TRUE(refused("global_stride", 4, 16));
  EXPECT_TRUE(refused("global_stride", 0, 24));
  EXPECT_TRUE(refused("element_stride", 0, 0));
  EXPECT_TRUE(refused("elemtype", 0, 13));
  EXPECT_TRUE(refused("swizzle_mode", 0, 4));
  EXPECT_TRUE(refused("swizzle_atomicity", 0, 0));
  const std::optional<TensorMap> m = decode_tensor_map(t.words);
  ASSERT_TRUE(m);
  EXPECT_EQ(m->address, t.address) << "a refused change changes nothing";
  EXPECT_EQ(m->box[1], 128u);
}

TEST(TensorMapReplace, Address) {
  Tiled t;
  ASSERT_EQ(t.encode(), kCuSuccess);
  EXPECT_EQ(replace_address(t.words, reinterpret_cast<void*>(0x4560), &t.why), kCuSuccess);
  EXPECT_EQ(decode_tensor_map(t.words)->address, 0x4560u);
  EXPECT_EQ(replace_address(t.words, reinterpret_cast<void*>(0x4561), &t.why), kCuErrorInvalidValue);
}

TEST(TensorMapIm2col, FieldsAndLimits) {
  alignas(64) uint64_t words[16];
  const uint64_t dims[5] = {64, 9, 14, 6, 3}, strides[4] = {128, 1152, 16128, 96768};
  const uint32_t steps[5] = {1, 1, 2, 1, 1};
  std::string why;
  const auto encode = [&](std::vector<int> lower, std::vector<int> upper, uint32_t channels,
                          uint32_t pixels) {
    return encode_im2col(words, 6, static_cast<uint32_t>(lower.size()) + 2, nullptr, dims, strides,
                         lower.data(), upper.data(), channels, pixels, steps, 0, 3, 0, 0, &why);
  };
  ASSERT_EQ(encode({-1, -2}, {-3, 1}, 64, 1024), kCuSuccess) << why;
  const std::optional<TensorMap> m = decode_tensor_map(words);
  ASSERT_TRUE(m && m->im2col);
  EXPECT_EQ(m->lower[0], -1);
  EXPECT_EQ(m->lower[1], -2);
  EXPECT_EQ(m->upper[0], -3);
  EXPECT_EQ(m->upper[1], 1);
  EXPECT_EQ(m->channels, 64u);
  EXPECT_EQ(m->pixels, 1024u);
  EXPECT_EQ(m->step[2], 2u);
  EXPECT_EQ(encode({-16, 0, 0}, {0, 0, 15}, 64, 1), kCuSuccess) << why;
  EXPECT_EQ(encode({-17, 0, 0}, {0, 0, 0}, 64, 1), kCuErrorInvalidValue);
  EXPECT_EQ(encode({0, 0, 0}, {0, 0, 16}, 64, 1), kCuErrorInvalidValue);
  EXPECT_EQ(encode({0, 0}, {-9, 0}, 64, 1), kCuErrorInvalidValue) << "an empty bounding box";
  EXPECT_EQ(encode({0, 0}, {0, 0}, 64, 1025), kCuErrorInvalidValue);
  EXPECT_EQ(encode({0, 0}, {0, 0}, 72, 1), kCuErrorInvalidValue) << "wider than the swizzle";
  EXPECT_EQ(encode({}, {}, 64, 1), kCuErrorInvalidValue) << "rank 2";
}

}  // namespace
}  // namespace ptxsim
