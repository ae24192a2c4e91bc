#pragma once

#include "base/bytes.h"
#include "base/error.h"

namespace thaw {

/// The frame of a stored document (manifest, page map segment): magic, version, sizes, checksum of
/// the plain bytes, then the plain bytes compressed with zstd. FORMAT.md has the layout.
struct EnvelopeKind {
  std::uint32_t magic;
  std::uint16_t version;
  std::size_t most_plain_bytes;
  const char* name;
};

Bytes seal_envelope(const EnvelopeKind& kind, ByteSpan plain);

/// How many plain bytes it says that it holds: kBadMagic, kBadVersion, kTooLarge, kTruncated or
/// kMalformed where its header says something else.
Result<std::size_t> plain_bytes(const EnvelopeKind& kind, ByteSpan sealed);

/// The plain bytes: kBadMagic, kBadVersion, kTooLarge, kTruncated, kMalformed or
/// kChecksumMismatch otherwise. Allocates at most kind.most_plain_bytes.
Result<Bytes> open_envelope(const EnvelopeKind& kind, ByteSpan sealed);

/// How many of these bytes the document takes that they begin with, as its header says: for
/// documents that follow one another. kTruncated.
Result<std::size_t> sealed_bytes(ByteSpan bytes);

}  // namespace thaw
