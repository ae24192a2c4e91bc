#include "format/chunk.h"

#include <xxhash.h>

#include "base/check.h"
#include "format/zstd_contexts.h"

namespace thaw {

namespace {

constexpr std::uint8_t kMagic = 0xC7;
constexpr std::uint8_t kVersion = 1;
constexpr int kLevel = 1;
/// Largest payload that still saves 5 % of a page.
constexpr std::size_t kWorthwhileBytes = kPageBytes - kPageBytes / 20;

std::uint64_t checksum(PageSpan plain, ChunkId id) {
  return XXH3_64bits_withSeed(plain.data(), plain.size(), id.value);
}

void write_header(std::byte* to, Codec codec, std::size_t payload_bytes, std::uint64_t sum) {
  store_le(to, kMagic);
  store_le(to + 1, kVersion);
  store_le(to + 2, static_cast<std::uint8_t>(codec));
  store_le(to + 3, std::uint8_t{0});
  store_le(to + 4, std::uint16_t{0});  // dictionary: none
  store_le(to + 6, static_cast<std::uint16_t>(payload_bytes));
  store_le(to + 8, sum);
}

}  // namespace

ChunkCodec::ChunkCodec() : contexts_(std::make_unique<ZstdContexts>()) {}
ChunkCodec::~ChunkCodec() = default;
ChunkCodec::ChunkCodec(ChunkCodec&&) noexcept = default;

bool is_zero_page(PageSpan page) {
  // memcmp of the page with itself, one byte on, is zero for pages of one repeated byte. It stops
  // at the first difference, and libc's vectors keep up with the memory (22 GB/s, as fast as a loop
  // written for the purpose).
  return page[0] == std::byte{0} && std::memcmp(page.data(), page.data() + 1, kPageBytes - 1) == 0;
}

Result<std::size_t> chunk_size(ByteSpan bytes) {
  if (bytes.size() < kChunkHeaderBytes) {
    return fail(ErrorCode::kTruncated, "{} bytes are no chunk header", bytes.size());
  }
  const std::byte* const at = bytes.data();
  if (load_le<std::uint8_t>(at) != kMagic) return fail(ErrorCode::kBadMagic, "not a chunk");
  const auto version = load_le<std::uint8_t>(at + 1);
  if (version != kVersion) return fail(ErrorCode::kBadVersion, "chunk version {}", version);
  const auto codec = load_le<std::uint8_t>(at + 2);
  const std::size_t payload = load_le<std::uint16_t>(at + 6);
  const bool raw = codec == static_cast<std::uint8_t>(Codec::kRaw);
  const bool zstd = codec == static_cast<std::uint8_t>(Codec::kZstd);
  if ((!raw && !zstd) || load_le<std::uint8_t>(at + 3) != 0 ||
      load_le<std::uint16_t>(at + 4) != 0 || payload > kPageBytes || payload == 0 ||
      (raw && payload != kPageBytes)) {
    return fail(ErrorCode::kMalformed, "chunk header with codec {} and {} bytes", codec, payload);
  }
  if (payload > bytes.size() - kChunkHeaderBytes) {
    return fail(ErrorCode::kTruncated, "chunk of {} bytes ends after {}", payload,
                bytes.size() - kChunkHeaderBytes);
  }
  return kChunkHeaderBytes + payload;
}

void ChunkCodec::encode(PageSpan page, ChunkId id, Bytes& to) {
  const std::size_t start = to.size();
  to.resize(start + kChunkHeaderBytes + ZSTD_COMPRESSBOUND(kPageBytes));
  std::byte* const header = to.data() + start;
  std::byte* const payload = header + kChunkHeaderBytes;
  std::size_t size =
      ZSTD_compressCCtx(contexts_->compress.get(), payload, ZSTD_COMPRESSBOUND(kPageBytes),
                        page.data(), page.size(), kLevel);
  Codec codec = Codec::kZstd;
  if (ZSTD_isError(size) != 0 || size > kWorthwhileBytes) {
    codec = Codec::kRaw;
    size = kPageBytes;
    std::memcpy(payload, page.data(), kPageBytes);
  }
  write_header(header, codec, size, checksum(page, id));
  to.resize(start + kChunkHeaderBytes + size);
}

Result<void> ChunkCodec::decode(ByteSpan chunk, ChunkId id, MutablePageSpan to) {
  const std::size_t size = TRY(chunk_size(chunk));
  if (size != chunk.size()) {
    return fail(ErrorCode::kMalformed, "{} bytes follow the chunk", chunk.size() - size);
  }
  const ByteSpan payload = chunk.subspan(kChunkHeaderBytes);
  if (load_le<std::uint8_t>(chunk.data() + 2) == static_cast<std::uint8_t>(Codec::kRaw)) {
    std::memcpy(to.data(), payload.data(), kPageBytes);
  } else {
    const std::size_t n = ZSTD_decompressDCtx(contexts_->decompress.get(), to.data(), to.size(),
                                              payload.data(), payload.size());
    if (ZSTD_isError(n) != 0) {
      return fail(ErrorCode::kMalformed, "chunk {:#x}: {}", id.value, ZSTD_getErrorName(n));
    }
    if (n != kPageBytes) {
      return fail(ErrorCode::kMalformed, "chunk {:#x} holds {} bytes", id.value, n);
    }
  }
  if (checksum(to, id) != load_le<std::uint64_t>(chunk.data() + 8)) {
    return fail(ErrorCode::kChecksumMismatch, "chunk {:#x}", id.value);
  }
  return {};
}

Result<ByteSpan> ChunkCodec::decode_next(ByteSpan chunks, ChunkId id, MutablePageSpan to) {
  const std::size_t size = TRY(chunk_size(chunks));
  TRY(decode(chunks.first(size), id, to));
  return chunks.subspan(size);
}

void reseal_chunk(MutableByteSpan chunk, PageSpan plain, ChunkId id) {
  CHECK(chunk.size() >= kChunkHeaderBytes);
  store_le(chunk.data() + 8, checksum(plain, id));
}

}  // namespace thaw
