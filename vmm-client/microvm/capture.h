#pragma once

#include <string>

#include "base/error.h"
#include "vmm-client/microvm/memory_image.h"
#include "vmm-client/microvm/microvm.h"

namespace thaw {

/// Where a VM is captured to.
struct CaptureFiles {
  std::string memory;  // raw image
  std::string state;   // appears last: where it is, the image is whole
};

/// Writes a VM's memory and state; each file appears whole or not at all. REQUIRES: it is paused.
Result<MemoryImageStatistics> capture(const MicroVm& vm, const CaptureFiles& files);

/// What capture() wrote to `path`; the errors are those of decode_state() and of files.
Result<MicroVmState> read_state_file(const std::string& path);

}  // namespace thaw
