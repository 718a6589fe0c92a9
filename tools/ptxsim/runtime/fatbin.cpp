#include "runtime/fatbin.h"

#include <link.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "runtime/api.h"

namespace ptxsim::runtime {
namespace {

constexpr uint32_t kWrapperMagic = 0x466243b1, kMagic = 0xba55ed50;
constexpr size_t kHeaderBytes = 16, kEntryBytes = 64;
constexpr uint16_t kPtxKind = 1, kElfKind = 2;
constexpr uint64_t kCompressed = 0x2000 | 0x8000;  // LZ4, zstd
constexpr int kDeviceArch = 90;
constexpr const char* kHowToBuild =
    "build with -gencode arch=compute_90a,code=sm_90a -gencode arch=compute_90a,code=compute_90a "
    "--no-compress";

template <class T>
T read(std::span<const std::byte> bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// Bytes from an address to the end of the loaded segment that holds it; `otherwise` where no program or
// library does.
uint64_t loaded_bytes_from(const void* address, uint64_t otherwise) {
  struct Search {
    uint64_t address, bytes;
  } search{reinterpret_cast<uint64_t>(address), otherwise};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto& s = *static_cast<Search*>(data);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& segment = info->dlpi_phdr[i];
          const uint64_t begin = info->dlpi_addr + segment.p_vaddr;
          if (segment.p_type != PT_LOAD || s.address - begin >= segment.p_memsz) continue;
          s.bytes = begin + segment.p_memsz - s.address;
          return 1;
        }
        return 0;
      },
      &search);
  return search.bytes;
}

}  // namespace

std::span<const std::byte> fatbin_of_wrapper(const void* wrapper) {
  struct Wrapper {
    uint32_t magic, version;
    const std::byte* data;
    const void* more;
  };
  const auto* w = static_cast<const Wrapper*>(wrapper);
  if (w == nullptr || w->magic != kWrapperMagic || w->data == nullptr)
    refuse(cudaErrorInvalidKernelImage, "the device code of the program is not in a form of CUDA 13");
  const uint64_t most = loaded_bytes_from(w->data, ~uint64_t{0});
  if (most < kHeaderBytes) refuse(cudaErrorInvalidKernelImage, "the fat binary is truncated");
  const std::span<const std::byte> header(w->data, kHeaderBytes);
  const uint64_t said = read<uint16_t>(header, 6) + std::min(read<uint64_t>(header, 8), ~uint64_t{0} >> 1);
  return {w->data, std::min(most, std::max<uint64_t>(said, kHeaderBytes))};
}

std::vector<FatbinImage> read_fatbin(std::span<const std::byte> bytes) {
  const auto truncated = [](const char* where) {
    refuse(cudaErrorInvalidKernelImage, "the fat binary is truncated: {} is incomplete", where);
  };
  if (bytes.size() < kHeaderBytes) truncated("its header");
  if (read<uint32_t>(bytes, 0) != kMagic)
    refuse(cudaErrorInvalidKernelImage, "the device code is no fat binary");
  const size_t header = read<uint16_t>(bytes, 6);
  const uint64_t entries = read<uint64_t>(bytes, 8);
  if (header < kHeaderBytes || header > bytes.size() || entries > bytes.size() - header)
    truncated("its list of images");

  std::vector<FatbinImage> images;
  const std::span<const std::byte> all = bytes.subspan(header, entries);
  for (size_t at = 0; at < all.size();) {
    const auto entry = all.subspan(at);
    if (entry.size() < kEntryBytes) truncated("the header of an image");
    const uint64_t entry_header = read<uint32_t>(entry, 4), payload = read<uint64_t>(entry, 8);
    if (entry_header < kEntryBytes || entry_header > entry.size() || payload > entry.size() - entry_header)
      truncated("an image");
    const uint16_t kind = read<uint16_t>(entry, 0);
    if (kind == kPtxKind || kind == kElfKind) {
      FatbinImage image;
      image.kind = kind == kPtxKind ? FatbinImage::Kind::kPtx : FatbinImage::Kind::kElf;
      image.arch = static_cast<int>(read<uint32_t>(entry, 28));
      image.compressed = read<uint32_t>(entry, 16) != 0 || (read<uint64_t>(entry, 40) & kCompressed) != 0;
      image.payload = {reinterpret_cast<const char*>(entry.data()) + entry_header, payload};
      if (image.kind == FatbinImage::Kind::kPtx && !image.compressed)
        image.payload = image.payload.substr(0, image.payload.find('\0'));
      images.push_back(image);
    }
    at += entry_header + payload;
  }
  return images;
}

std::string_view choose_ptx(std::span<const FatbinImage> images) {
  const FatbinImage* best = nullptr;
  bool compressed = false, elf = false;
  std::set<int> others;
  for (const FatbinImage& image : images) {
    if (image.kind == FatbinImage::Kind::kElf) {
      elf = true;
    } else if (image.arch > kDeviceArch) {
      others.insert(image.arch);
    } else if (image.compressed) {
      compressed = true;
    } else if (best == nullptr || image.arch > best->arch) {
      best = &image;
    }
  }
  if (best != nullptr) return best->payload;
  if (compressed)
    refuse(cudaErrorNoKernelImageForDevice, "the PTX in the program is compressed: build with --no-compress");
  if (!others.empty())
    refuse(cudaErrorNoKernelImageForDevice,
           "the program has PTX for compute_{} only, the device is sm_90: {}",
           fmt::join(others, ", compute_"), kHowToBuild);
  if (elf) refuse(cudaErrorNoKernelImageForDevice, "the program has SASS and no PTX: {}", kHowToBuild);
  refuse(cudaErrorNoKernelImageForDevice, "the program has no device code: {}", kHowToBuild);
}

}  // namespace ptxsim::runtime
