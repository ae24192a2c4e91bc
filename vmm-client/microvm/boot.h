#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "base/error.h"
#include "vmm-client/microvm/state.h"

namespace thaw {

/// How a microVM that was never captured begins: in ring 3 of long mode, in the payload. All of its
/// memory is mapped where it is, for ring 3, by tables at its beginning. It has no interrupts and
/// no exceptions; the task state segment lets ring 3 use the ports of payload/parameters.h.

struct PayloadOptions {
  ByteCount structure;  // of all vCPUs together
  std::uint64_t seed = 1;
  std::uint64_t steps = 16384;  // nodes that a vCPU visits in a round
};

/// Writes the payload, its parameters and all tables. kTooLarge when the structure does not fit.
/// REQUIRES: check_memory_size() took the size, and the memory is zero.
Result<void> write_boot_memory(MutableByteSpan memory, const PayloadOptions& options);

/// The registers of a vCPU that is about to begin.
kvm_regs boot_registers(std::size_t vcpu, std::size_t vcpus);
/// The same for segments and control registers; `reset` is what KVM has at first.
kvm_sregs boot_system(kvm_sregs reset);

}  // namespace thaw
