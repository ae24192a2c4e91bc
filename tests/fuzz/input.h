#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/bytes.h"
#include "base/check.h"
#include "format/envelope.h"
#include "format/limits.h"
#include "format/working_set.h"
#include "vmm-client/microvm/limits.h"

namespace thaw::fuzz {

/// The envelopes of FORMAT.md, so that a fuzzer reaches the decoder behind their checksum.
inline constexpr EnvelopeKind kManifest{.magic = 0x31'4e'4d'54,
                                        .version = 1,
                                        .most_plain_bytes = limits::kMaxHeaderBytes,
                                        .name = "manifest"};
inline constexpr EnvelopeKind kSegment{.magic = 0x31'4d'50'54,
                                       .version = 1,
                                       .most_plain_bytes = limits::kMaxSegmentBytes - 4096,
                                       .name = "page map segment"};
inline constexpr EnvelopeKind kColdMap{.magic = 0x31'4d'43'54,
                                       .version = 1,
                                       .most_plain_bytes = limits::kMaxColdMapBytes,
                                       .name = "cold map"};
inline constexpr EnvelopeKind kRecording{.magic = 0x31'43'52'54,
                                         .version = 1,
                                         .most_plain_bytes = limits::kMaxRecordingBytes,
                                         .name = "recording"};
inline constexpr EnvelopeKind kWorkingSet{.magic = 0x31'53'57'54,
                                          .version = 1,
                                          .most_plain_bytes = limits::kMaxWorkingSetBytes,
                                          .name = "working set"};

/// As vmm-client/microvm/STATE.md has it.
inline constexpr EnvelopeKind kMicroVmState{.magic = 0x31'53'56'54,
                                            .version = 2,
                                            .most_plain_bytes = limits::kMaxMicroVmStateBytes,
                                            .name = "microVM state"};

/// The pages that a pack in an input is to have.
inline constexpr std::array kPackPages{PackPage{{3}, ChunkId::of(1, 0, 7)},
                                       PackPage{{4}, ChunkId::of(1, 0, 8)},
                                       PackPage{{900}, ChunkId::of(1, 0, 2)}};

/// The first byte of an input says what the rest is.
enum class Form : std::uint8_t {
  kSealed = 0,  // the envelope itself, header and checksum included
  kPlain = 1,   // what stands in an envelope
};

/// The bytes that go into the decoder: the rest of `input`, sealed when it is in the plain form.
inline Bytes sealed_input(const EnvelopeKind& kind, ByteSpan input) {
  if (input.empty()) return {};
  const ByteSpan rest = input.subspan(1);
  const bool plain = (std::to_integer<unsigned>(input[0]) & 1) != 0;
  if (plain && rest.size() <= kind.most_plain_bytes) return seal_envelope(kind, rest);
  return {rest.begin(), rest.end()};
}

inline ByteSpan as_input(const std::uint8_t* data, std::size_t size) {
  return std::as_bytes(std::span(data, size));
}

}  // namespace thaw::fuzz
