#include "runtime/cubin.h"

#include <elf.h>

#include <cstring>
#include <optional>

namespace ptxsim::runtime {
namespace {

constexpr uint8_t kFormatWithSize = 4;
constexpr uint8_t kFrameSize = 0x11, kRegisterCount = 0x2f;

template <class T>
std::optional<T> read(std::string_view bytes, uint64_t at) {
  if (at > bytes.size() || bytes.size() - at < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

std::string_view part(std::string_view bytes, uint64_t at, uint64_t size) {
  if (at > bytes.size() || size > bytes.size() - at) return {};
  return bytes.substr(at, size);
}

std::string_view text_at(std::string_view table, uint64_t at) {
  if (at >= table.size()) return {};
  const std::string_view rest = table.substr(at);
  const size_t end = rest.find('\0');
  return end == std::string_view::npos ? std::string_view{} : rest.substr(0, end);
}

// The contents of a section; empty for one without.
std::string_view contents(std::string_view elf, const Elf64_Shdr& section) {
  return section.sh_type == SHT_NOBITS ? std::string_view{} : part(elf, section.sh_offset, section.sh_size);
}

std::optional<Elf64_Shdr> section_at(std::string_view elf, const Elf64_Ehdr& header, uint64_t index) {
  if (index >= header.e_shnum) return std::nullopt;
  return read<Elf64_Shdr>(elf, header.e_shoff + index * sizeof(Elf64_Shdr));
}

}  // namespace

std::unordered_map<std::string, SassUsage> read_cubin(std::string_view elf) {
  const auto header = read<Elf64_Ehdr>(elf, 0);
  if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
      header->e_shentsize != sizeof(Elf64_Shdr) || header->e_shoff > elf.size())
    return {};
  const auto names_section = section_at(elf, *header, header->e_shstrndx);
  if (!names_section) return {};
  const std::string_view names = contents(elf, *names_section);

  std::string_view info, symbols, strings;
  for (uint64_t i = 0; i < header->e_shnum; ++i) {
    const auto section = section_at(elf, *header, i);
    if (!section) return {};
    if (text_at(names, section->sh_name) == ".nv.info") info = contents(elf, *section);
    if (section->sh_type == SHT_SYMTAB) {
      symbols = contents(elf, *section);
      if (const auto linked = section_at(elf, *header, section->sh_link)) strings = contents(elf, *linked);
    }
  }

  std::unordered_map<std::string, SassUsage> usage;
  for (uint64_t at = 0; at < info.size();) {
    const auto format = read<uint8_t>(info, at), attribute = read<uint8_t>(info, at + 1);
    const auto size = read<uint16_t>(info, at + 2);
    if (!format || !attribute || !size) break;
    at += 4;
    if (*format != kFormatWithSize) continue;  // its value is in the two bytes of the size
    const auto symbol = read<uint32_t>(info, at), value = read<uint32_t>(info, at + 4);
    at += *size;
    if (*size < 8 || !symbol || !value || (*attribute != kFrameSize && *attribute != kRegisterCount))
      continue;
    const auto entry = read<Elf64_Sym>(symbols, uint64_t{*symbol} * sizeof(Elf64_Sym));
    const std::string_view name = entry ? text_at(strings, entry->st_name) : std::string_view{};
    if (name.empty() || *value > 1u << 24) continue;
    SassUsage& kernel = usage[std::string(name)];
    (*attribute == kRegisterCount ? kernel.registers : kernel.stack_bytes) = static_cast<int>(*value);
  }
  return usage;
}

}  // namespace ptxsim::runtime
