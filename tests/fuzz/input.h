#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/bytes.h"
#include "base/check.h"
#include "format/envelope.h"
#include "format/limits.h"

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
