#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/types.h"
#include "vmm-client/microvm/kvm_abi.h"
#include "vmm-client/microvm/memory_identity.h"

namespace thaw {

/// What a vCPU has written to the serial port: whole lines, then some of the next one.
struct SerialCursor {
  std::uint64_t lines = 0;
  std::uint64_t column = 0;
};

/// What a vCPU is between two instructions. A value.
struct VcpuState {
  kvm_regs registers{};
  kvm_sregs system{};  // segments, control registers, EFER
  Bytes xsave;         // x87, SSE, AVX ... as KVM_GET_XSAVE2 gives them
  std::vector<kvm_xcr> xcrs;
  std::vector<kvm_msr_entry> msrs;
  kvm_vcpu_events events{};
  kvm_debugregs debug{};
  kvm_mp_state multiprocessing{};
  SerialCursor serial;
};

/// "GenuineIntel", "AuthenticAMD".
using CpuVendor = std::array<char, 12>;

/// All of a microVM but its memory. A value; STATE.md has its form in a file.
struct MicroVmState {
  ByteCount memory;
  std::uint64_t serial_bytes = 0;  // that the guest has written
  std::uint64_t clock_ns = 0;      // KVM's clock of the VM
  std::uint32_t tsc_khz = 0;
  CpuVendor cpu_vendor{};  // of the host where it ran
  /// Names the memory that was captured with it: see memory_identity.h. Nothing where a capture
  /// looked at changes alone.
  std::optional<std::uint64_t> content{};
  std::vector<PageWitness> witnesses{};
  std::vector<kvm_cpuid_entry2> cpuid;  // the same for all vCPUs
  std::vector<VcpuState> vcpus;
};

/// REQUIRES: every count and size within limits.h, as decode_state() checks them.
Bytes encode_state(const MicroVmState& state);

/// kBadMagic, kBadVersion, kTooLarge, kTruncated, kMalformed or kChecksumMismatch when these bytes
/// are not what encode_state() made. What the registers contain is for KVM to judge.
Result<MicroVmState> decode_state(ByteSpan sealed);

/// Whether a microVM can have so much memory: kInvalidArgument, kTooLarge.
Result<void> check_memory_size(ByteCount memory);

}  // namespace thaw
