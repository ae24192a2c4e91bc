#pragma once

#include <memory>
#include <string>
#include <variant>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "vmm-client/restore_profile.h"

namespace thaw {

/// The port between a RestorePool and a VMM: what a VM is before it is known which snapshot it
/// will run, and how it becomes that one.

/// The socket of a session that was prepared, but not to be shared: a shell's memory is its own.
struct PreparedSession {
  std::string socket_path;
};
/// A raw image of all guest memory in a file of this host. Its holes are zeros.
struct ImageFile {
  std::string path;
};
/// The same in memory, which is borrowed for the restore.
struct ImageBytes {
  ByteSpan bytes;
};
using MemorySource = std::variant<PreparedSession, ImageFile, ImageBytes>;

struct RestoreSource {
  MemorySource memory;
  std::string state_path;  // the VMM's state file; empty when there is none
};

/// A VM without a snapshot: memory that is mapped and registered as missing, and what else costs
/// time and is the same for all snapshots of a shape (the VM in KVM, its vCPUs). Used by one thread
/// at a time, not always the same one.
class Shell {
 public:
  virtual ~Shell() = default;

  /// Makes it a VM of the snapshot that has not begun to run. Called once; a shell that failed is
  /// destroyed. Ends soon after the deadline.
  virtual Result<void> restore(const RestoreSource& source, Deadline deadline,
                               PhaseTimer& phases) = 0;
};

/// Makes the shells of one shape. Called by several threads at once. Outlives its shells.
class ShellFactory {
 public:
  virtual ~ShellFactory() = default;

  /// Never null. Must end by itself: the end of the pool waits for it.
  virtual Result<std::unique_ptr<Shell>> create(PhaseTimer& phases) = 0;
};

}  // namespace thaw
