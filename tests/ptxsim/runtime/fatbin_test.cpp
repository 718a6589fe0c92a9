// Fat binaries: what is read from them, and what a program gets back whose device code cannot be used.
#include "runtime/fatbin.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "runtime/api.h"
#include "runtime/cubin.h"
#include "tests/ptxsim/runtime/program.h"

namespace {

using ptxsim::runtime::ApiError;
using ptxsim::runtime::choose_ptx;
using ptxsim::runtime::FatbinImage;
using ptxsim::runtime::read_cubin;
using ptxsim::runtime::read_fatbin;
using ptxsim_test::FatbinEntry;
using ptxsim_test::make_fatbin;
using ptxsim_test::RegisteredBinary;

TEST(SimFatbin, ReadsEveryImage) {
  const auto bytes =
      make_fatbin({{.payload = "ptx text"}, {.kind = 2, .payload = "elf"}, {.arch = 80, .payload = "x"}});
  const auto images = read_fatbin(bytes);
  ASSERT_EQ(images.size(), 3u);
  EXPECT_EQ(images[0].kind, FatbinImage::Kind::kPtx);
  EXPECT_EQ(images[0].payload, "ptx text");
  EXPECT_EQ(images[0].arch, 90);
  EXPECT_EQ(images[1].kind, FatbinImage::Kind::kElf);
  EXPECT_EQ(images[2].arch, 80);
}

TEST(SimFatbin, EveryTruncationIsSeen) {
  const auto bytes = make_fatbin({{.payload = "ptx text"}, {.payload = "another"}});
  for (size_t n = 0; n < bytes.size(); ++n) {
    try {
      (void)read_fatbin({bytes.data(), n});
      FAIL() << n << " of " << bytes.size() << " bytes were taken for a whole container";
    } catch (const ApiError& error) {
      EXPECT_EQ(error.code, cudaErrorInvalidKernelImage);
      EXPECT_NE(error.why.find("truncated"), std::string::npos) << error.why;
    }
  }
}

TEST(SimFatbin, SizesThatLieDoNotLeadAstray) {
  for (const size_t field : {8, 16 + 4, 16 + 8}) {
    auto bytes = make_fatbin({{.payload = "ptx text"}});
    for (size_t i = 0; i < 4; ++i) bytes[field + i] = std::byte{0xff};
    EXPECT_THROW((void)read_fatbin(bytes), ApiError) << "field at " << field;
  }
}

TEST(SimFatbin, TakesTheNewestPtxThatRunsOnTheDevice) {
  const auto bytes = make_fatbin(
      {{.arch = 80, .payload = "80"}, {.arch = 90, .payload = "90"}, {.arch = 100, .payload = "100"}});
  EXPECT_EQ(choose_ptx(read_fatbin(bytes)), "90");
}

TEST(SimFatbin, CubinOfGarbageGivesNothing) {
  EXPECT_TRUE(read_cubin("").empty());
  std::string elf(4096, '\x7f');
  EXPECT_TRUE(read_cubin(elf).empty());
  elf.replace(0, 4,
              "\x7f"
              "ELF");
  EXPECT_TRUE(read_cubin(elf).empty());
}

// What the first use of a kernel returns, and the line on stderr.
struct FirstUse {
  cudaError_t code;
  std::string line;
};
FirstUse first_use(std::vector<std::byte> fatbin) {
  static char stub;
  RegisteredBinary binary(std::move(fatbin));
  binary.kernel(&stub, "add");
  testing::internal::CaptureStderr();
  cudaFuncAttributes attributes;
  const cudaError_t code = cudaFuncGetAttributes(&attributes, &stub);
  EXPECT_EQ(cudaGetLastError(), code);
  return {code, testing::internal::GetCapturedStderr()};
}

TEST(SimFatbin, FirstUseOfPlainPtxWorks) {
  const FirstUse use = first_use(make_fatbin({{.payload = ptxsim_test::test_ptx()}}));
  EXPECT_EQ(use.code, cudaSuccess) << use.line;
  EXPECT_EQ(use.line, "");
}

TEST(SimFatbin, FirstUseOfUnusableCode) {
  const std::string ptx = ptxsim_test::test_ptx();
  const auto expect = [](const FirstUse& use, cudaError_t code, const char* word) {
    EXPECT_EQ(use.code, code) << use.line;
    EXPECT_NE(use.line.find(word), std::string::npos) << use.line;
    EXPECT_EQ(std::count(use.line.begin(), use.line.end(), '\n'), 1) << use.line;
  };
  expect(first_use(make_fatbin({{.payload = ptx, .compressed_bytes = 10, .flags = 0x8011}})),
         cudaErrorNoKernelImageForDevice, "--no-compress");
  expect(first_use(make_fatbin({{.kind = 2,
                                 .payload = "\x7f"
                                            "ELF"}})),
         cudaErrorNoKernelImageForDevice, "no PTX");
  expect(first_use(make_fatbin({{.arch = 100, .payload = ptx}})), cudaErrorNoKernelImageForDevice,
         "compute_100");
  expect(first_use(make_fatbin({})), cudaErrorNoKernelImageForDevice, "no device code");
  expect(first_use(make_fatbin(
             {{.payload = ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry add( {"}})),
         cudaErrorInvalidPtx, "PTX");
  expect(first_use(make_fatbin({{.payload = ".version 9.0\n.target sm_90a\n.address_size 64\n"}})),
         cudaErrorInvalidDeviceFunction, "no kernel add");
  auto cut = make_fatbin({{.payload = ptx}});
  for (size_t i = 0; i < 8; ++i) cut[16 + 8 + i] = std::byte{0x7f};  // the payload's size
  expect(first_use(cut), cudaErrorInvalidKernelImage, "truncated");
}

}  // namespace
