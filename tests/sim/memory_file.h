#pragma once

#include <optional>
#include <vector>

#include <sys/types.h>

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
  /// The handler maps it there; one before it, if there was one, has died.
  void map(HostAddress at);
  /// All that is there.
  void copy_to(MutableByteSpan to) const;
  /// As lseek(2) has it: SEEK_DATA or SEEK_HOLE. Nothing: ENXIO.
  std::optional<off_t> seek(off_t from, int whence) const;
  GuestMemory& memory() { return memory_; }
  /// Nothing: a hole.
  std::optional<Content> content(PageIndex page) const;
  ByteCount allocated() const;

 private:
  GuestMemory memory_;
};

}  // namespace thaw::sim
