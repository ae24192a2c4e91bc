#pragma once

#include <cstddef>
#include <cstdint>

/// Every bound on a microVM and on the file with its state.
namespace thaw::limits {

inline constexpr std::size_t kMaxVcpus = 8;
inline constexpr std::uint64_t kMinMicroVmMemory = 4u << 20;
/// Below the addresses that KVM keeps for itself on some hosts.
inline constexpr std::uint64_t kMaxMicroVmMemory = std::uint64_t{3} << 30;
/// Of a microVM's memory, because its page tables have entries of this size.
inline constexpr std::uint64_t kMicroVmMemoryUnit = 2u << 20;

/// Pages that name a VM's memory in its state: where each vCPU's code and stack are.
inline constexpr std::size_t kMaxWitnesses = 2 * kMaxVcpus;
/// That write or read a memory image.
inline constexpr unsigned kMaxImageThreads = 8;

// What KVM knows of a vCPU.
inline constexpr std::size_t kMaxCpuidEntries = 256;
inline constexpr std::size_t kMaxMsrs = 512;
inline constexpr std::size_t kMaxXcrs = 16;
inline constexpr std::size_t kMinXsaveBytes = 4096;
inline constexpr std::size_t kMaxXsaveBytes = 64u << 10;

/// Plain bytes of a state file.
inline constexpr std::size_t kMaxMicroVmStateBytes = 1u << 20;
inline constexpr std::size_t kMaxMicroVmStateFileBytes = kMaxMicroVmStateBytes + (64u << 10);

static_assert(kMaxVcpus * (kMaxXsaveBytes + kMaxMsrs * 12 + kMaxXcrs * 12 + 4096) +
                      kMaxCpuidEntries * 28 + kMaxWitnesses * 16 + 4096 <=
                  kMaxMicroVmStateBytes,
              "the largest state fits its file");

}  // namespace thaw::limits
