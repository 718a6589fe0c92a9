#include "tests/ptxsim/runtime/program.h"

#include <cstring>

extern "C" {
void** __cudaRegisterFatBinary(void* wrapper);
void __cudaRegisterFatBinaryEnd(void** handle);
void __cudaUnregisterFatBinary(void** handle);
void __cudaRegisterFunction(void** handle, const char* host, char* device, const char* name, int threads,
                            uint3* tid, uint3* bid, dim3* block, dim3* grid, int* warp_size);
void __cudaRegisterVar(void** handle, char* host, char* device, const char* name, int is_extern, size_t bytes,
                       int constant, int global);
}

namespace ptxsim_test {

namespace {

template <class T>
void put(std::vector<std::byte>& bytes, size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

constexpr const char* kPtx = R"(
.version 9.0
.target sm_90a
.address_size 64

.visible .global .align 4 .u32 counter = 5;

.visible .entry add(.param .u64 p, .param .u32 value, .param .u32 n)
{
  .reg .pred %p<2>;
  .reg .b32 %r<8>;
  .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [p];
  ld.param.u32 %r1, [value];
  ld.param.u32 %r2, [n];
  mov.u32 %r3, %ctaid.x;
  mov.u32 %r4, %ntid.x;
  mov.u32 %r5, %tid.x;
  mad.lo.s32 %r6, %r3, %r4, %r5;
  setp.ge.s32 %p1, %r6, %r2;
  @%p1 bra DONE;
  mul.wide.s32 %rd2, %r6, 4;
  add.s64 %rd3, %rd1, %rd2;
  ld.global.u32 %r7, [%rd3];
  add.s32 %r7, %r7, %r1;
  st.global.u32 [%rd3], %r7;
DONE:
  ret;
}

.visible .entry spin(.param .u64 flag)
{
  .reg .pred %p<2>;
  .reg .b32 %r<2>;
  .reg .b64 %rd<2>;
  ld.param.u64 %rd1, [flag];
AGAIN:
  ld.volatile.global.u32 %r1, [%rd1];
  setp.eq.s32 %p1, %r1, 0;
  @%p1 bra AGAIN;
  ret;
}

.visible .entry store(.param .u64 p)
{
  .reg .b32 %r<2>;
  .reg .b64 %rd<2>;
  ld.param.u64 %rd1, [p];
  mov.u32 %r1, 1;
  st.global.u32 [%rd1], %r1;
  ret;
}

.visible .entry shared(.param .u64 p)
{
  .reg .b32 %r<2>;
  .reg .b64 %rd<2>;
  .shared .align 4 .b8 room[1024];
  ld.param.u64 %rd1, [p];
  mov.u32 %r1, 7;
  st.shared.u32 [room], %r1;
  ld.shared.u32 %r1, [room];
  st.global.u32 [%rd1], %r1;
  ret;
}

.visible .entry wide(.param .u64 p)
.maxntid 128, 1, 1
{
  ret;
}

.visible .entry pair(.param .u64 p)
.reqnctapercluster 2, 1, 1
{
  .reg .b32 %r<2>;
  .reg .b64 %rd<2>;
  ld.param.u64 %rd1, [p];
  mov.u32 %r1, %cluster_nctaid.x;
  st.global.u32 [%rd1], %r1;
  ret;
}

.visible .entry bump()
{
  .reg .b32 %r<2>;
  ld.global.u32 %r1, [counter];
  add.s32 %r1, %r1, 1;
  st.global.u32 [counter], %r1;
  ret;
}
)";

}  // namespace

std::vector<std::byte> make_fatbin(const std::vector<FatbinEntry>& entries) {
  constexpr size_t kHeader = 16, kEntry = 64;
  std::vector<std::byte> bytes(kHeader);
  for (const FatbinEntry& e : entries) {
    const size_t at = bytes.size(), payload = (e.payload.size() + 8) / 8 * 8;
    bytes.resize(at + kEntry + payload);
    put<uint16_t>(bytes, at, e.kind);
    put<uint32_t>(bytes, at + 4, kEntry);
    put<uint64_t>(bytes, at + 8, payload);
    put<uint32_t>(bytes, at + 16, e.compressed_bytes);
    put<uint32_t>(bytes, at + 28, e.arch);
    put<uint64_t>(bytes, at + 40, e.flags);
    std::memcpy(bytes.data() + at + kEntry, e.payload.data(), e.payload.size());
  }
  put<uint32_t>(bytes, 0, 0xba55ed50);
  put<uint16_t>(bytes, 4, 1);
  put<uint16_t>(bytes, 6, kHeader);
  put<uint64_t>(bytes, 8, bytes.size() - kHeader);
  return bytes;
}

RegisteredBinary::RegisteredBinary(std::vector<std::byte> fatbin) : fatbin_(std::move(fatbin)) {
  wrapper_.data = fatbin_.data();
  handle_ = __cudaRegisterFatBinary(&wrapper_);
}
RegisteredBinary::~RegisteredBinary() { __cudaUnregisterFatBinary(handle_); }
void RegisteredBinary::kernel(const void* host, const char* name) {
  __cudaRegisterFunction(handle_, static_cast<const char*>(host), nullptr, name, -1, nullptr, nullptr,
                         nullptr, nullptr, nullptr);
}
void RegisteredBinary::variable(void* host, const char* name, size_t bytes) {
  __cudaRegisterVar(handle_, static_cast<char*>(host), nullptr, name, 0, bytes, 0, 0);
}

const std::string& test_ptx() {
  static const std::string text = kPtx;
  return text;
}

Program& Program::instance() {
  static char stubs[7];
  static int shadow;
  static auto* binary = new RegisteredBinary(make_fatbin({{.payload = test_ptx()}}));
  static Program* program = [] {
    const char* names[] = {"add", "spin", "store", "shared", "wide", "pair", "bump"};
    for (int i = 0; i < 7; ++i) binary->kernel(stubs + i, names[i]);
    binary->variable(&shadow, "counter", sizeof(int));
    return new Program{stubs, stubs + 1, stubs + 2, stubs + 3, stubs + 4, stubs + 5, stubs + 6, &shadow};
  }();
  return *program;
}

}  // namespace ptxsim_test
