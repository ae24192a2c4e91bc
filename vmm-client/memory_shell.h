#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "vmm-client/guest_memory.h"
#include "vmm-client/shell.h"

namespace thaw {

/// Hands the memory over, or fills it with an image of this host: the phase "handover" or
/// "contents". The errors of GuestMemory; the memory of a failed attempt is of no use any more.
Result<void> restore_memory(GuestMemory& memory, const MemorySource& source, Deadline deadline,
                            PhaseTimer& phases);

/// A shell that is guest memory alone.
class MemoryShell final : public Shell {
 public:
  explicit MemoryShell(GuestMemory memory) : memory_(std::move(memory)) {}

  /// kUnsupported for a source with a state file.
  Result<void> restore(const RestoreSource& source, Deadline deadline, PhaseTimer& phases) override;

  GuestMemory& memory() { return memory_; }

 private:
  GuestMemory memory_;
};

/// Makes them. Immutable.
class MemoryShellFactory final : public ShellFactory {
 public:
  explicit MemoryShellFactory(std::vector<GuestRegion> shapes) : shapes_(std::move(shapes)) {}

  /// The phase "memory", and the errors of GuestMemory::create().
  Result<std::unique_ptr<Shell>> create(PhaseTimer& phases) override;

 private:
  const std::vector<GuestRegion> shapes_;
};

}  // namespace thaw
