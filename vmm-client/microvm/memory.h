#pragma once

#include <string>
#include <variant>

#include "base/clock.h"
#include "base/error.h"
#include "base/mapping.h"
#include "base/types.h"
#include "vmm-client/guest_memory.h"
#include "vmm-client/microvm/state.h"
#include "vmm-client/shell.h"

namespace thaw {

/// The memory of a microVM, wherever its content comes from. One thread; the bytes are for any.
class MicroVmMemory {
 public:
  /// Zeros.
  static Result<MicroVmMemory> zeros(ByteCount size);
  /// What a raw image has; the image is not written to. kMalformed when it is of another size,
  /// kChecksumMismatch when it is not the memory that the state names.
  static Result<MicroVmMemory> from_file(const std::string& path, const MicroVmState& state);
  /// Missing for now: touch nothing before restore() has succeeded.
  static Result<MicroVmMemory> missing(ByteCount size);
  /// This host's image of the snapshot: see GuestMemory::share().
  static Result<MicroVmMemory> shared(ByteCount size, const std::string& socket_path,
                                      Deadline deadline);

  /// See thaw::restore_memory(). REQUIRES: made by missing().
  Result<void> restore(const MemorySource& source, Deadline deadline, PhaseTimer& phases);

  MutableByteSpan bytes() const;

 private:
  explicit MicroVmMemory(std::variant<Mapping, GuestMemory> memory) : memory_(std::move(memory)) {}

  std::variant<Mapping, GuestMemory> memory_;
};

}  // namespace thaw
