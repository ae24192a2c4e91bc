#include "format/pack.h"

#include <xxhash.h>

#include "base/check.h"
#include "format/limits.h"
#include "format/zstd_contexts.h"

namespace thaw {

namespace {

constexpr std::uint32_t kPackMagic = 0x31'4b'50'54;  // "TPK1"
constexpr std::uint16_t kPackVersion = 1;
constexpr std::size_t kPackHeaderBytes = 16;
constexpr std::size_t kPageEntryBytes = 16;
/// Packs are made once and read at every restore. Higher levels are slower to make, no smaller to
/// speak of, and no faster to read.
constexpr int kPackLevel = 3;

static_assert(kPackHeaderBytes + limits::kMaxPackPages * kPageEntryBytes +
                  ZSTD_COMPRESSBOUND(limits::kMaxPackPages * kPageBytes) <=
              limits::kMaxPackBytes);

std::uint64_t checksum(ByteSpan plain, std::size_t i, ChunkId chunk) {
  return XXH3_64bits_withSeed(plain.data() + i * kPageBytes, kPageBytes, chunk.value);
}

}  // namespace

PackCodec::PackCodec() : contexts_(std::make_unique<ZstdContexts>()) {}
PackCodec::~PackCodec() = default;
PackCodec::PackCodec(PackCodec&&) noexcept = default;

Bytes PackCodec::encode(std::span<const PackPage> pages, ByteSpan plain) {
  CHECK(!pages.empty() && pages.size() <= limits::kMaxPackPages &&
        plain.size() == pages.size() * kPageBytes);
  const std::size_t start = kPackHeaderBytes + pages.size() * kPageEntryBytes;
  Bytes sealed(start + ZSTD_compressBound(plain.size()));
  const std::size_t payload =
      ZSTD_compressCCtx(contexts_->compress.get(), sealed.data() + start, sealed.size() - start,
                        plain.data(), plain.size(), kPackLevel);
  CHECK(ZSTD_isError(payload) == 0);
  store_le(sealed.data(), kPackMagic);
  store_le(sealed.data() + 4, kPackVersion);
  store_le(sealed.data() + 6, static_cast<std::uint16_t>(pages.size()));
  store_le(sealed.data() + 8, static_cast<std::uint32_t>(payload));
  store_le(sealed.data() + 12, std::uint32_t{0});
  for (std::size_t i = 0; i < pages.size(); ++i) {
    std::byte* const entry = sealed.data() + kPackHeaderBytes + i * kPageEntryBytes;
    store_le(entry, pages[i].page.value);
    store_le(entry + 8, checksum(plain, i, pages[i].chunk));
  }
  sealed.resize(start + payload);
  return sealed;
}

Result<void> PackCodec::decode(ByteSpan sealed, std::span<const PackPage> pages,
                               MutableByteSpan plain) {
  CHECK(plain.size() >= pages.size() * kPageBytes);
  plain = plain.first(pages.size() * kPageBytes);
  const std::size_t start = kPackHeaderBytes + pages.size() * kPageEntryBytes;
  if (sealed.size() < kPackHeaderBytes) {
    return fail(ErrorCode::kTruncated, "{} bytes are no pack", sealed.size());
  }
  if (load_le<std::uint32_t>(sealed.data()) != kPackMagic) {
    return fail(ErrorCode::kBadMagic, "not a pack");
  }
  const auto version = load_le<std::uint16_t>(sealed.data() + 4);
  if (version != kPackVersion) return fail(ErrorCode::kBadVersion, "pack version {}", version);
  const std::size_t count = load_le<std::uint16_t>(sealed.data() + 6);
  const std::size_t payload = load_le<std::uint32_t>(sealed.data() + 8);
  if (count != pages.size() || load_le<std::uint32_t>(sealed.data() + 12) != 0) {
    return fail(ErrorCode::kMalformed, "a pack of {} pages where {} were due", count, pages.size());
  }
  if (sealed.size() < start || sealed.size() - start < payload) {
    return fail(ErrorCode::kTruncated, "a pack of {} pages ends after {} bytes", count,
                sealed.size());
  }
  if (sealed.size() - start > payload) {
    return fail(ErrorCode::kMalformed, "{} bytes follow the pack", sealed.size() - start - payload);
  }
  for (std::size_t i = 0; i < pages.size(); ++i) {
    const auto page =
        load_le<std::uint64_t>(sealed.data() + kPackHeaderBytes + i * kPageEntryBytes);
    if (page != pages[i].page.value) {
      return fail(ErrorCode::kMalformed, "a pack with page {} where {} was due", page,
                  pages[i].page.value);
    }
  }
  const std::size_t n = ZSTD_decompressDCtx(contexts_->decompress.get(), plain.data(), plain.size(),
                                            sealed.data() + start, payload);
  if (ZSTD_isError(n) != 0 || n != plain.size()) {
    return fail(ErrorCode::kMalformed, "a pack does not decompress to {} pages", count);
  }
  for (std::size_t i = 0; i < pages.size(); ++i) {
    const std::byte* const entry = sealed.data() + kPackHeaderBytes + i * kPageEntryBytes;
    if (checksum(plain, i, pages[i].chunk) != load_le<std::uint64_t>(entry + 8)) {
      return fail(ErrorCode::kChecksumMismatch, "page {} of a pack", pages[i].page.value);
    }
  }
  return {};
}

}  // namespace thaw
