#include "tests/sim/memory_file.h"

#include <algorithm>

namespace thaw::sim {

void MemoryFile::map(HostAddress at) {
  for (std::uint64_t i = 0; i < memory_.page_count().value; ++i) {
    memory_.map(at + bytes_of({i}), {i});
  }
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
