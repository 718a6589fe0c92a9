// Libraries: device code loaded by the program itself.
#include <cuda_runtime_api.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "runtime/api.h"
#include "runtime/device.h"
#include "runtime/handles.h"
#include "runtime/registry.h"

using namespace ptxsim;           // NOLINT: this file is C functions only
using namespace ptxsim::runtime;  // NOLINT

namespace {

constexpr uint32_t kWrapperMagic = 0x466243b1;

HandleTable<cudaLibrary_t, Library>& libraries() {
  static auto* table = new HandleTable<cudaLibrary_t, Library>("a library");
  return *table;
}

cudaLibrary_t load(std::shared_ptr<Binary> binary) {
  auto library = std::make_shared<Library>();
  library->binary = std::move(binary);
  for (const ptx::Function& f : library->binary->module().functions) {
    if (!f.is_entry) continue;
    auto kernel = std::make_unique<Kernel>(library->binary, f.name);
    adopt(*kernel);
    library->kernels.emplace(f.name, std::move(kernel));
  }
  return libraries().add(std::move(library));
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// `code`: PTX text ended by a zero byte, or the wrapper of a fat binary.
cudaError_t cudaLibraryLoadData(cudaLibrary_t* library, const void* code, cudaJitOption* /*options*/,
                                void** /*values*/, unsigned /*count*/, cudaLibraryOption* /*library_options*/,
                                void** /*library_values*/, unsigned /*library_count*/) {
  return api(__func__, [&] {
    need(library, "library");
    uint32_t magic = 0;
    std::memcpy(&magic, need(code, "code"), sizeof magic);
    *library =
        load(magic == kWrapperMagic ? std::make_shared<Binary>(code)
                                    : std::make_shared<Binary>(std::string(static_cast<const char*>(code))));
  });
}
cudaError_t cudaLibraryLoadFromFile(cudaLibrary_t* library, const char* path, cudaJitOption* /*options*/,
                                    void** /*values*/, unsigned /*count*/,
                                    cudaLibraryOption* /*library_options*/, void** /*library_values*/,
                                    unsigned /*library_count*/) {
  return api(__func__, [&] {
    need(library, "library");
    std::ifstream file(need(path, "fileName"), std::ios::binary);
    if (!file) refuse(cudaErrorFileNotFound, "{}", path);
    *library = load(std::make_shared<Binary>(std::string(std::istreambuf_iterator<char>(file), {})));
  });
}
cudaError_t cudaLibraryUnload(cudaLibrary_t library) {
  return api(__func__, [&] {
    const auto gone = libraries().remove(library);
    for (int i = 0; i < device_count(); ++i) device_at(i).synchronize();
    for (const auto& [name, kernel] : gone->kernels) disown(*kernel);
  });
}
cudaError_t cudaLibraryGetKernel(cudaKernel_t* kernel, cudaLibrary_t library, const char* name) {
  return api(__func__, [&] {
    const auto of = libraries().get(library);
    const auto it = of->kernels.find(need(name, "name"));
    if (it == of->kernels.end()) refuse(cudaErrorSymbolNotFound, "the library has no kernel {}", name);
    *need(kernel, "pKernel") = reinterpret_cast<cudaKernel_t>(it->second.get());
  });
}
cudaError_t cudaLibraryGetKernelCount(unsigned* count, cudaLibrary_t library) {
  return api(__func__, [&] {
    *need(count, "count") = static_cast<unsigned>(libraries().get(library)->kernels.size());
  });
}
cudaError_t cudaLibraryEnumerateKernels(cudaKernel_t* kernels, unsigned room, cudaLibrary_t library) {
  return api(__func__, [&] {
    unsigned i = 0;
    for (const auto& [name, kernel] : libraries().get(library)->kernels)
      if (i < room) need(kernels, "kernels")[i++] = reinterpret_cast<cudaKernel_t>(kernel.get());
  });
}
cudaError_t cudaLibraryGetGlobal(void** pointer, size_t* bytes, cudaLibrary_t library, const char* name) {
  return api(__func__, [&] {
    uint64_t size = 0;
    std::byte* address =
        libraries().get(library)->binary->image(current_device().index)->variable(need(name, "name"), &size);
    if (address == nullptr) refuse(cudaErrorSymbolNotFound, "the library has no variable {}", name);
    if (pointer != nullptr) *pointer = address;
    if (bytes != nullptr) *bytes = size;
  });
}

}  // extern "C"
#pragma GCC visibility pop
