#include "tests/sim/memory_file.h"

#include <algorithm>

#include <unistd.h>

namespace thaw::sim {

namespace {

// SAFETY (both): what a handler has mapped, dead or not, stays mapped.
ByteSpan bytes_at(HostAddress address) {
  return {reinterpret_cast<const std::byte*>(address.value), kPageBytes};
}
std::byte* place_at(HostAddress address) { return reinterpret_cast<std::byte*>(address.value); }

}  // namespace

void MemoryFile::map(HostAddress at) {
  for (std::uint64_t i = 0; i < memory_.page_count().value; ++i) {
    const HostAddress to = at + bytes_of({i});
    const auto from = memory_.address_of({i});
    if (!from) {
      memory_.map(to, {i});
      continue;
    }
    if (content({i})) std::ranges::copy(bytes_at(*from), place_at(to));
    memory_.move(*from, to);
  }
}

void MemoryFile::copy_to(MutableByteSpan to) const {
  for (std::uint64_t i = 0; i < memory_.page_count().value; ++i) {
    const auto from = memory_.address_of({i});
    if (from && content({i})) {
      std::ranges::copy(bytes_at(*from), to.subspan(i * kPageBytes).begin());
    }
  }
}

std::optional<off_t> MemoryFile::seek(off_t from, int whence) const {
  const std::uint64_t end = memory_.page_count().value;
  const auto at = static_cast<std::uint64_t>(from);
  for (std::uint64_t i = at / kPageBytes; i < end; ++i) {
    if (content({i}).has_value() != (whence == SEEK_DATA)) continue;
    return static_cast<off_t>(std::max(at, i * kPageBytes));
  }
  if (whence == SEEK_DATA || at >= end * kPageBytes) return std::nullopt;
  return static_cast<off_t>(end * kPageBytes);
}

std::optional<Content> MemoryFile::content(PageIndex page) const {
  const auto address = memory_.address_of(page);
  return address ? memory_.pages().at(address->value).content : std::nullopt;
}

ByteCount MemoryFile::allocated() const {
  const auto present = std::ranges::count_if(
      memory_.pages(), [](const auto& page) { return page.second.content.has_value(); });
  return bytes_of({static_cast<std::uint64_t>(present)});
}

}  // namespace thaw::sim
