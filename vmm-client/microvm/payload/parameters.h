#pragma once

#include <cstdint>

/// What the VMM and the payload that runs in the guest agree on. Freestanding.
namespace thaw::payload {

/// Where the payload is linked and loaded; its first bytes are its entry.
inline constexpr std::uint64_t kLoadAddress = 1u << 20;
inline constexpr std::uint64_t kMostBytes = 256u << 10;

inline constexpr std::uint16_t kSerialPort = 0x3f8;
/// Whoever writes here ends the VM with that code.
inline constexpr std::uint16_t kExitPort = 0xf4;

/// The payload exits with this code when its parameters make no sense.
inline constexpr std::uint32_t kBadParameters = 1;

/// Each node has a cache line.
inline constexpr std::uint64_t kNodeBytes = 64;

/// At the base of FS. On entry RDI is the vCPU's number, RSI how many there are.
struct Parameters {
  std::uint64_t structure;        // its address
  std::uint64_t structure_bytes;  // of all vCPUs together
  std::uint64_t seed;
  std::uint64_t steps;  // nodes that a vCPU visits in a round
};

}  // namespace thaw::payload
