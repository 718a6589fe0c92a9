#include "runtime/registry.h"

#include <algorithm>
#include <shared_mutex>
#include <unordered_set>

#include "config.h"
#include "names.h"
#include "runtime/api.h"
#include "runtime/fatbin.h"

namespace ptxsim::runtime {
namespace {

struct Registry {
  std::shared_mutex mutex;
  std::unordered_map<void**, std::shared_ptr<Binary>> binaries;
  std::unordered_map<const void*, std::unique_ptr<Kernel>> kernels;  // by host stub
  std::unordered_set<const void*> kernel_handles;
  std::unordered_map<const void*, DeviceVariable> variables;  // by host shadow
};

Registry& registry() {
  static auto* r = new Registry;  // used from static constructors and destructors of the program
  return *r;
}

}  // namespace

// Reads the container and the declarations of the PTX, once.
void Binary::parse() {
  if (module_ != nullptr) return;
  std::string text = text_;
  if (wrapper_ != nullptr) {
    const auto images = read_fatbin(fatbin_of_wrapper(wrapper_));
    text = choose_ptx(images);
    for (const FatbinImage& image : images)
      if (image.kind == FatbinImage::Kind::kElf && !image.compressed && image.arch == 90)
        for (auto& [name, usage] : read_cubin(image.payload)) usage_[name] = usage;
  }
  module_ = Image::parse(std::move(text));
}

const ptx::Module& Binary::module() {
  std::lock_guard lock(mutex_);
  parse();
  return *module_;
}

std::shared_ptr<Image> Binary::image(int device) {
  std::lock_guard lock(mutex_);
  auto& image = images_[device];
  if (image == nullptr) {
    parse();
    image = Image::load(module_, device);
  }
  return image;
}

void Binary::forget_image(int device) {
  std::shared_ptr<Image> last;  // dies after the lock
  std::lock_guard lock(mutex_);
  last = std::move(images_[device]);
  images_.erase(device);
}

SassUsage Binary::usage(const std::string& kernel) {
  std::lock_guard lock(mutex_);
  parse();
  const auto it = usage_.find(kernel);
  return it == usage_.end() ? SassUsage{} : it->second;
}

Kernel::Kernel(std::shared_ptr<Binary> binary, std::string name)
    : binary(std::move(binary)), name(std::move(name)), settings_(new Settings[config().devices]) {}

const ptx::Function& Kernel::function() {
  const ptx::Function* f = binary->module().find(name);
  if (f == nullptr || !f->is_entry) refuse(cudaErrorInvalidDeviceFunction, "the PTX has no kernel {}", name);
  return *f;
}

const Program& Kernel::program(int device) {
  function();
  return binary->image(device)->kernel(name);
}

std::string Kernel::label() const { return short_name(name); }

int Kernel::registers(int device) {
  const int sass = binary->usage(name).registers;
  if (sass > 0) return sass;
  constexpr int kFewest = 16, kMost = 255, kGranularity = 8;
  int most = kMost;
  const ptx::Function& f = function();
  if (f.max_registers > 0) most = f.max_registers;
  const int rounded = (program(device).live_registers + kGranularity - 1) / kGranularity * kGranularity;
  // ptxas spills rather than exceed what the launch bounds leave to a thread.
  const int threads = max_threads();
  most = std::min(most, gpu_limits().registers_per_sm / std::max(threads, 1) / kGranularity * kGranularity);
  return std::min(std::max(rounded, kFewest), most);
}

int Kernel::max_threads() {
  constexpr int kMost = 1024;
  const ptx::Function& f = function();
  const auto& bounds = f.required_threads[0] > 0 ? f.required_threads : f.max_threads;
  if (bounds[0] <= 0) return kMost;
  return std::min<int64_t>(int64_t{bounds[0]} * std::max(bounds[1], 1) * std::max(bounds[2], 1), kMost);
}

Kernel& kernel_of(const void* function) {
  Registry& r = registry();
  std::shared_lock lock(r.mutex);
  if (const auto it = r.kernels.find(function); it != r.kernels.end()) return *it->second;
  if (r.kernel_handles.contains(function)) return *const_cast<Kernel*>(static_cast<const Kernel*>(function));
  refuse(cudaErrorInvalidDeviceFunction, "{} is not a kernel that the program registered", function);
}

const DeviceVariable& variable_of(const void* symbol) {
  Registry& r = registry();
  std::shared_lock lock(r.mutex);
  const auto it = r.variables.find(symbol);
  if (it == r.variables.end())
    refuse(cudaErrorInvalidSymbol, "{} is not a device variable of the program", symbol);
  return it->second;
}

VariablePlace place_of(Binary& binary, const std::string& name, int device) {
  uint64_t bytes = 0;
  std::byte* address = binary.image(device)->variable(name, &bytes);
  if (address == nullptr) refuse(cudaErrorInvalidSymbol, "the PTX has no variable {}", name);
  return {address, bytes};
}

VariablePlace place_of(const void* symbol, int device) {
  const DeviceVariable variable = variable_of(symbol);
  return place_of(*variable.binary, variable.name, device);
}

void** register_binary(const void* wrapper) {
  Registry& r = registry();
  auto handle = new void*(nullptr);
  std::unique_lock lock(r.mutex);
  r.binaries.emplace(handle, std::make_shared<Binary>(wrapper));
  return handle;
}

void unregister_binary(void** handle) {
  Registry& r = registry();
  std::shared_ptr<Binary> last;  // dies after the lock
  std::unique_lock lock(r.mutex);
  const auto it = r.binaries.find(handle);
  if (it == r.binaries.end()) return;
  last = std::move(it->second);
  r.binaries.erase(it);
  std::erase_if(r.kernels, [&](const auto& entry) {
    if (entry.second->binary != last) return false;
    r.kernel_handles.erase(entry.second.get());
    return true;
  });
  std::erase_if(r.variables, [&](const auto& entry) { return entry.second.binary == last; });
  delete handle;
}

std::shared_ptr<Binary> binary_of(void** handle) {
  Registry& r = registry();
  std::shared_lock lock(r.mutex);
  const auto it = r.binaries.find(handle);
  return it == r.binaries.end() ? nullptr : it->second;
}

void register_kernel(void** handle, const void* host, const char* name) {
  auto binary = binary_of(handle);
  if (binary == nullptr) return;
  auto kernel = std::make_unique<Kernel>(std::move(binary), name);
  Registry& r = registry();
  std::unique_lock lock(r.mutex);
  r.kernel_handles.insert(kernel.get());
  r.kernels[host] = std::move(kernel);
}

void register_variable(void** handle, const void* host, const char* name, uint64_t bytes) {
  auto binary = binary_of(handle);
  if (binary == nullptr) return;
  Registry& r = registry();
  std::unique_lock lock(r.mutex);
  r.variables[host] = {std::move(binary), name, bytes};
}

void adopt(Kernel& kernel) {
  Registry& r = registry();
  std::unique_lock lock(r.mutex);
  r.kernel_handles.insert(&kernel);
}

void disown(Kernel& kernel) {
  Registry& r = registry();
  std::unique_lock lock(r.mutex);
  r.kernel_handles.erase(&kernel);
}

void forget_images(int device) {
  Registry& r = registry();
  std::shared_lock lock(r.mutex);
  for (const auto& [handle, binary] : r.binaries) binary->forget_image(device);
}

}  // namespace ptxsim::runtime
