// Entry points beside the main road: names of errors, libraries, driver functions, per-thread streams, what
// is missing.
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <elf.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "runtime/cubin.h"
#include "tests/ptxsim/runtime/program.h"

// As the header names them for --default-stream per-thread; cudaMallocArray is one of those that are not
// simulated.
extern "C" {
cudaError_t cudaLaunchKernel_ptsz(const void*, dim3, dim3, void**, size_t, cudaStream_t);
cudaError_t cudaStreamSynchronize_ptsz(cudaStream_t);
cudaError_t cudaMemcpy_ptds(void*, const void*, size_t, cudaMemcpyKind);
}

namespace {

using ptxsim_test::Program;

TEST(SimEntryPoints, ErrorsHaveTheirNames) {
  EXPECT_STREQ(cudaGetErrorName(cudaErrorMemoryAllocation), "cudaErrorMemoryAllocation");
  EXPECT_STREQ(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory");
  EXPECT_STREQ(cudaGetErrorString(cudaSuccess), "no error");
  EXPECT_STREQ(cudaGetErrorName(static_cast<cudaError_t>(1000)), "unrecognized error code");
}

TEST(SimEntryPoints, WhatIsMissingSaysSo) {
  cudaArray_t array;
  const cudaChannelFormatDesc format = {};
  testing::internal::CaptureStderr();
  EXPECT_EQ(cudaMallocArray(&array, &format, 4, 0, 0), cudaErrorNotSupported);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("cudaMallocArray is not implemented"),
            std::string::npos);
  EXPECT_EQ(cudaGetLastError(), cudaErrorNotSupported);
}

TEST(SimEntryPoints, EveryAttributeIsKnown) {
  for (int a = 1; a < cudaDevAttrMax; ++a) {
    int value = -12345;
    EXPECT_EQ(cudaDeviceGetAttribute(&value, static_cast<cudaDeviceAttr>(a), 0), cudaSuccess);
    EXPECT_NE(value, -12345) << a;
  }
  int value = 0;
  ASSERT_EQ(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0), cudaSuccess);
  EXPECT_EQ(value, 227 * 1024);
  ASSERT_EQ(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 0), cudaSuccess);
  EXPECT_EQ(value, 132);
}

TEST(SimEntryPoints, LibrariesFromText) {
  cudaLibrary_t library;
  ASSERT_EQ(cudaLibraryLoadData(&library, ptxsim_test::test_ptx().c_str(), nullptr, nullptr, 0, nullptr,
                                nullptr, 0),
            cudaSuccess);
  cudaKernel_t kernel;
  ASSERT_EQ(cudaLibraryGetKernel(&kernel, library, "add"), cudaSuccess);
  EXPECT_EQ(cudaLibraryGetKernel(&kernel, library, "subtract"), cudaErrorSymbolNotFound);
  int* p = nullptr;
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&p), 4), cudaSuccess);
  ASSERT_EQ(cudaMemset(p, 0, 4), cudaSuccess);
  ASSERT_EQ(ptxsim_test::launch(reinterpret_cast<const void*>(kernel), 1, 32, nullptr, p, 6, 1), cudaSuccess);
  int got = 0, *counter = nullptr;
  size_t bytes = 0;
  ASSERT_EQ(cudaMemcpy(&got, p, 4, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(got, 6);
  ASSERT_EQ(cudaLibraryGetGlobal(reinterpret_cast<void**>(&counter), &bytes, library, "counter"),
            cudaSuccess);
  EXPECT_EQ(bytes, 4u);
  ASSERT_EQ(cudaMemcpy(&got, counter, 4, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(got, 5);  // its own, not that of the program
  ASSERT_EQ(cudaLibraryUnload(library), cudaSuccess);
  EXPECT_EQ(ptxsim_test::launch(reinterpret_cast<const void*>(kernel), 1, 32, nullptr, p, 6, 1),
            cudaErrorInvalidDeviceFunction);
  EXPECT_EQ(cudaLibraryLoadData(&library, "no ptx", nullptr, nullptr, 0, nullptr, nullptr, 0),
            cudaErrorInvalidPtx);
  (void)cudaGetLastError();
  EXPECT_EQ(cudaFree(p), cudaSuccess);
}

TEST(SimEntryPoints, DriverFunctionsByName) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result;
  ASSERT_EQ(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault,
                                             &result),
            cudaSuccess);
  EXPECT_EQ(result, cudaDriverEntryPointSuccess);
  alignas(64) CUtensorMap map;
  alignas(128) static float tensor[64 * 64];
  const cuuint64_t dims[] = {64, 64}, strides[] = {64 * sizeof(float)};
  const cuuint32_t box[] = {32, 8}, steps[] = {1, 1};
  const auto encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  EXPECT_EQ(encode(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, tensor, dims, strides, box, steps,
                   CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
            CUDA_SUCCESS);
  EXPECT_EQ(encode(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 7, tensor, dims, strides, box, steps,
                   CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
            CUDA_ERROR_INVALID_VALUE);
  ASSERT_EQ(cudaGetDriverEntryPointByVersion("cuNothing", &function, 12000, cudaEnableDefault, &result),
            cudaSuccess);
  EXPECT_EQ(result, cudaDriverEntryPointSymbolNotFound);
  EXPECT_EQ(function, nullptr);
}

TEST(SimEntryPoints, PerThreadVariantsUseTheThreadsStream) {
  cudaStream_t held;
  int *flag = nullptr, *p = nullptr, got = 0, value = 4, count = 1;
  ASSERT_EQ(cudaStreamCreate(&held), cudaSuccess);
  ASSERT_EQ(cudaMallocHost(reinterpret_cast<void**>(&flag), 4), cudaSuccess);
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&p), 4), cudaSuccess);
  ASSERT_EQ(cudaMemset(p, 0, 4), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  *flag = 0;
  // The legacy stream would wait for this one for ever.
  ASSERT_EQ(ptxsim_test::launch(Program::instance().spin, 1, 1, held, flag), cudaSuccess);
  void* arguments[] = {&p, &value, &count};
  ASSERT_EQ(cudaLaunchKernel_ptsz(Program::instance().add, 1, 32, arguments, 0, nullptr), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize_ptsz(nullptr), cudaSuccess);
  ASSERT_EQ(cudaMemcpy_ptds(&got, p, 4, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(got, 4);
  __atomic_store_n(flag, 1, __ATOMIC_SEQ_CST);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(held), cudaSuccess);
  EXPECT_EQ(cudaFree(p), cudaSuccess);
  EXPECT_EQ(cudaFreeHost(flag), cudaSuccess);
}

// A SASS image of the parts that count: the name of a kernel, and what .nv.info says of it.
std::string small_cubin() {
  const std::string names("\0.nv.info\0.symtab\0", 18), strings("\0kernel\0", 8);
  const uint32_t info[] = {0x00082f04, 1, 40,  // registers of symbol 1
                           0x00081104, 1, 96,  // its stack
                           0x00010902};        // an attribute without a size of its own
  Elf64_Sym symbols[2] = {};
  symbols[1].st_name = 1;
  Elf64_Ehdr header = {};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_shentsize = sizeof(Elf64_Shdr);
  header.e_shnum = 5;
  header.e_shstrndx = 1;
  std::string elf(sizeof header, '\0');
  Elf64_Shdr sections[5] = {};
  const auto put = [&](int index, uint32_t name, uint32_t type, const void* data, size_t bytes) {
    sections[index].sh_name = name;
    sections[index].sh_type = type;
    sections[index].sh_offset = elf.size();
    sections[index].sh_size = bytes;
    elf.append(static_cast<const char*>(data), bytes);
  };
  put(1, 0, SHT_STRTAB, names.data(), names.size());
  put(2, 0, SHT_STRTAB, strings.data(), strings.size());
  put(3, 10, SHT_SYMTAB, symbols, sizeof symbols);
  sections[3].sh_link = 2;
  put(4, 1, SHT_LOPROC, info, sizeof info);
  header.e_shoff = elf.size();
  elf.append(reinterpret_cast<const char*>(sections), sizeof sections);
  std::memcpy(elf.data(), &header, sizeof header);
  return elf;
}

TEST(SimCubin, RegistersAndStackOfAKernel) {
  const auto usage = ptxsim::runtime::read_cubin(small_cubin());
  ASSERT_EQ(usage.count("kernel"), 1u);
  EXPECT_EQ(usage.at("kernel").registers, 40);
  EXPECT_EQ(usage.at("kernel").stack_bytes, 96);
}

TEST(SimCubin, SurvivesEveryTruncationAndEveryByteFlipped) {
  const std::string elf = small_cubin();
  for (size_t n = 0; n < elf.size(); ++n)
    (void)ptxsim::runtime::read_cubin(std::string_view(elf).substr(0, n));
  for (size_t i = 0; i < elf.size(); ++i) {
    std::string bent = elf;
    bent[i] = static_cast<char>(~bent[i]);
    (void)ptxsim::runtime::read_cubin(bent);
  }
}

// Registers of the SASS decide what a GPU would refuse, whatever the PTX looks like.
TEST(SimCubin, DecidesWhatFits) {
  static char stub;
  std::string elf = small_cubin();
  elf.replace(elf.find("kernel"), 6, std::string("add\0\0\0", 6));
  elf.replace(elf.find(std::string("\x28\0\0\0", 4)), 4, std::string("\xa8\0\0\0", 4));  // 168 registers
  ptxsim_test::RegisteredBinary binary(
      ptxsim_test::make_fatbin({{.payload = ptxsim_test::test_ptx()}, {.kind = 2, .payload = elf}}));
  binary.kernel(&stub, "add");
  cudaFuncAttributes a;
  ASSERT_EQ(cudaFuncGetAttributes(&a, &stub), cudaSuccess);
  EXPECT_EQ(a.numRegs, 168);
  EXPECT_EQ(a.localSizeBytes, 96u);
  EXPECT_EQ(a.maxThreadsPerBlock, 384);
  int* p = nullptr;
  testing::internal::CaptureStderr();
  EXPECT_EQ(ptxsim_test::launch(&stub, 1, 512, nullptr, p, 1, 0), cudaErrorLaunchOutOfResources);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("168 registers"), std::string::npos);
  (void)cudaGetLastError();
  EXPECT_EQ(ptxsim_test::launch(&stub, 1, 384, nullptr, p, 1, 0), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

}  // namespace
