#pragma once

#include <string>

#include "base/error.h"
#include "vmm-client/microvm/memory_image.h"
#include "vmm-client/microvm/microvm.h"

namespace thaw {

/// Where a VM is captured to.
struct CaptureFiles {
  std::string memory;  // raw image
  std::string state;   // names the memory by its content
};
/// What of memory is captured: all of it, or what is other than in the snapshot it was restored
/// from.
enum class Captured { kAll, kChanges };

/// Writes a VM's memory and state. Both files appear when both are complete and durable; before,
/// what was there stays. REQUIRES: it is paused, and for its changes, has a dirty log.
Result<MemoryImageStatistics> capture(MicroVm& vm, const CaptureFiles& files, Captured captured);

/// What capture() wrote to `path`; the errors are those of decode_state() and of files.
Result<MicroVmState> read_state_file(const std::string& path);

}  // namespace thaw
