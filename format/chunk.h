#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "base/bytes.h"
#include "base/error.h"
#include "base/types.h"

namespace thaw {

struct ZstdContexts;

using PlainPage = std::array<std::byte, kPageBytes>;
using PageSpan = std::span<const std::byte, kPageBytes>;
using MutablePageSpan = std::span<std::byte, kPageBytes>;

/// Names a chunk for ever: namespace (16 bits), writer (8), sequence (40, from 1), from the top.
/// Ids of one ingest are neighbours. 0 is no chunk.
struct ChunkId {
  std::uint64_t value = 0;

  static constexpr unsigned kSequenceBits = 40;
  static constexpr std::uint64_t kMaxSequence = (std::uint64_t{1} << kSequenceBits) - 1;

  static constexpr ChunkId of(std::uint16_t name_space, std::uint8_t writer,
                              std::uint64_t sequence) {
    return {std::uint64_t{name_space} << 48 | std::uint64_t{writer} << kSequenceBits | sequence};
  }
  constexpr std::uint16_t name_space() const { return static_cast<std::uint16_t>(value >> 48); }
  constexpr std::uint64_t sequence() const { return value & kMaxSequence; }
  constexpr bool valid() const { return sequence() != 0; }
  friend constexpr auto operator<=>(ChunkId, ChunkId) = default;
};

/// A chunk on its way to the store, before it has an id.
inline constexpr ChunkId kNoChunk{};

enum class Codec : std::uint8_t { kRaw = 0, kZstd = 1 };

/// The 16 bytes before every chunk's payload; FORMAT.md has the layout.
inline constexpr std::size_t kChunkHeaderBytes = 16;
inline constexpr std::size_t kMaxChunkBytes = kChunkHeaderBytes + kPageBytes;

/// Whether all 4,096 bytes are zero. Such a page is never stored nor sent.
bool is_zero_page(PageSpan page);

/// Size in bytes of the chunk that `bytes` begins with, from its header alone: kBadMagic,
/// kBadVersion, kMalformed, or kTruncated when fewer bytes are there than the header says.
Result<std::size_t> chunk_size(ByteSpan bytes);

/// Turns pages into chunks and back. The checksum of the plain bytes is seeded with the chunk's
/// id, so a chunk that is served under another id fails as a damaged one does. Holds reusable zstd
/// contexts; one thread at a time.
class ChunkCodec {
 public:
  ChunkCodec();
  ~ChunkCodec();
  ChunkCodec(ChunkCodec&&) noexcept;

  /// Appends `page` as a chunk: zstd level 1, or raw when that saves less than 5 %.
  void encode(PageSpan page, ChunkId id, Bytes& to);

  /// Decodes exactly one chunk into `to` and verifies it. On an error `to` holds garbage.
  Result<void> decode(ByteSpan chunk, ChunkId id, MutablePageSpan to);
  /// The same with the first of concatenated chunks; returns the others.
  Result<ByteSpan> decode_next(ByteSpan chunks, ChunkId id, MutablePageSpan to);

 private:
  std::unique_ptr<ZstdContexts> contexts_;
};

/// Gives a chunk whose plain bytes are known the checksum for another id, in place.
void reseal_chunk(MutableByteSpan chunk, PageSpan plain, ChunkId id);

}  // namespace thaw
