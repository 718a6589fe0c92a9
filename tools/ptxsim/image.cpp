// Modules: their variables in memory, their kernels on demand.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "config.h"
#include "exec/decoder.h"
#include "memory/global.h"
#include "names.h"
#include "sim.h"

namespace ptxsim {

namespace {

// Two devices share one parsed module, whose bodies are parsed on demand.
std::mutex& decode_mutex() {
  static std::mutex mutex;
  return mutex;
}

}  // namespace

struct Image::Data {
  struct Block {
    std::byte* memory;
    uint64_t bytes;
  };
  std::unordered_map<std::string_view, Block> variables;
};

std::shared_ptr<ptx::Module> Image::parse(std::string text) {
  std::shared_ptr<ptx::Module> module;
  try {
    module = ptx::parse_module(std::move(text));
  } catch (const ptx::ParseError& e) {
    throw Fault(ErrorCode::kInvalidPtx, fmt::format("PTX line {}: {}", e.line, e.what()));
  }
  if (module->version >= 100)
    throw Fault(ErrorCode::kUnsupportedPtxVersion,
                fmt::format("PTX version {}.{} is newer than 9", module->version / 10, module->version % 10));
  const int sm = module->target.rfind("sm_", 0) == 0 ? std::atoi(module->target.c_str() + 3) : 0;
  if (sm == 0 || sm > 90)
    throw Fault(
        ErrorCode::kNoKernelImage,
        fmt::format(
            "PTX for {}: this is an sm_90 device; build with -gencode arch=compute_90a,code=compute_90a",
            module->target));
  if (module->address_size != 64)
    throw Fault(ErrorCode::kInvalidPtx, fmt::format("PTX with addresses of {} bits", module->address_size));
  return module;
}

std::shared_ptr<Image> Image::load(std::shared_ptr<ptx::Module> module, int device) {
  std::shared_ptr<Image> image(new Image);
  image->module_ = std::move(module);
  image->device_ = device;
  image->data_ = std::make_unique<Data>();
  Data& data = *image->data_;
  for (const ptx::Variable& v : image->module_->variables) {
    if (v.space != ptx::Space::kGlobal && v.space != ptx::Space::kConst) continue;
    const uint64_t align = std::max<uint64_t>(256, v.align), bytes = std::max<uint64_t>(v.bytes, 1);
    auto* memory = static_cast<std::byte*>(std::aligned_alloc(align, (bytes + align - 1) / align * align));
    if (!memory)
      throw Fault(ErrorCode::kMemoryAllocation,
                  fmt::format("no memory for variable {} of {} bytes", v.name, v.bytes));
    std::memset(memory, 0, bytes);
    if (!v.init.empty()) std::memcpy(memory, v.init.data(), std::min<uint64_t>(v.init.size(), bytes));
    data.variables[v.name] = {memory, v.bytes};
    GlobalMemory::instance().add(reinterpret_cast<uint64_t>(memory),
                                 reinterpret_cast<uint64_t>(memory) + bytes, device,
                                 v.space == ptx::Space::kConst ? MemoryKind::kConstant : MemoryKind::kModule);
  }
  for (const ptx::Variable& v : image->module_->variables)
    for (const ptx::AddressInit& a : v.addresses) {
      auto to = data.variables.find(a.symbol);
      // Functions have no addresses here: a table of virtual functions may stand there as long as nobody
      // calls through it.
      if (to == data.variables.end() && image->module_->function_index.count(a.symbol)) continue;
      if (to == data.variables.end())
        throw Fault(ErrorCode::kInvalidPtx,
                    fmt::format("variable {} is initialised with the address of {}, which is no variable",
                                v.name, a.symbol));
      const uint64_t value =
          (reinterpret_cast<uint64_t>(to->second.memory) + static_cast<uint64_t>(a.addend)) >> a.shift;
      if (a.offset + a.bytes <= v.bytes)
        std::memcpy(data.variables[v.name].memory + a.offset, &value, a.bytes);
    }
  return image;
}

Image::~Image() {
  if (!data_) return;
  for (auto& [name, block] : data_->variables) {
    GlobalMemory::instance().remove(reinterpret_cast<uint64_t>(block.memory));
    std::free(block.memory);
  }
}

const Program& Image::kernel(std::string_view name) {
  std::lock_guard lock(mutex_);
  if (auto known = programs_.find(std::string(name)); known != programs_.end()) return *known->second;
  auto found = module_->function_index.find(name);
  if (found == module_->function_index.end() || !module_->functions[found->second].is_entry)
    throw Fault(ErrorCode::kNoKernelImage, fmt::format("no kernel {} in this module", name));
  auto address = [this](std::string_view variable) -> uint64_t {
    auto at = data_->variables.find(variable);
    return at == data_->variables.end() ? 0 : reinterpret_cast<uint64_t>(at->second.memory);
  };
  std::unique_ptr<Program> program;
  {
    std::lock_guard decoding(decode_mutex());
    try {
      program = decode(*module_, module_->functions[found->second], address);
    } catch (const ptx::ParseError& e) {
      throw Fault(ErrorCode::kInvalidPtx,
                  fmt::format("kernel {}, PTX line {}: {}", short_name(name), e.line, e.what()));
    }
  }
  static std::atomic<uint64_t> serial{0};
  program->serial = ++serial;
  program->short_name = short_name(program->name);
  return *(programs_[std::string(name)] = std::move(program));
}

std::byte* Image::variable(std::string_view name, uint64_t* bytes) {
  auto at = data_->variables.find(name);
  if (at == data_->variables.end()) return nullptr;
  if (bytes) *bytes = at->second.bytes;
  return at->second.memory;
}

int registers_of(const Program& p) {
  const ptx::Function& f = *p.entry;
  int limit = 255;
  const int threads =
      std::max(1, f.required_threads[0]
                      ? f.required_threads[0] * f.required_threads[1] * f.required_threads[2]
                      : f.max_threads[0] * std::max(1, f.max_threads[1]) * std::max(1, f.max_threads[2]));
  if (threads > 1)
    limit = std::min(limit, gpu_limits().registers_per_sm / (threads * std::max(1, f.min_ctas)) / 8 * 8);
  if (f.max_registers) limit = std::min(limit, f.max_registers);
  for (const std::string_view opcode : p.opcodes)
    if (opcode.starts_with("setmaxnreg")) return limit;
  return std::clamp((p.live_registers + 7) / 8 * 8, 16, std::max(16, limit));
}

const GpuLimits& gpu_limits() {
  // Both are GH100 with 132 SMs. The memory is what cudaGetDeviceProperties reports: 79.2 and 139.8 GiB.
  static const GpuLimits limits = [] {
    GpuLimits l{.sms = 132};
    l.memory_bytes = config().gpu == "H800" ? uint64_t{85029158912} : uint64_t{150121545728};
    if (config().device_memory) l.memory_bytes = config().device_memory;
    return l;
  }();
  return limits;
}

}  // namespace ptxsim
