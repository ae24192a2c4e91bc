#pragma once

#include <optional>
#include <vector>

#include "tests/sim/guest_memory.h"
#include "tests/sim/machine.h"

namespace thaw::sim {

/// The file of a host image. The handler fills it through a mapping of its own, whose bytes are
/// real, since it reads them; VMs map it privately. One thread.
class MemoryFile final : public File {
 public:
  MemoryFile(Schedule& schedule, std::vector<Content> snapshot)
      : memory_(schedule, std::move(snapshot)) {}

  short ready() const override { return 0; }
  /// The handler maps it there.
  void map(HostAddress at);
  GuestMemory& memory() { return memory_; }
  /// Nothing: a hole.
  std::optional<Content> content(PageIndex page) const;
  ByteCount allocated() const;

 private:
  GuestMemory memory_;
};

}  // namespace thaw::sim
