#include "format/envelope.h"

#include <zstd.h>

#include "base/check.h"
#include "format/hash.h"

namespace thaw {

namespace {
constexpr std::size_t kHeaderBytes = 24;
constexpr int kEnvelopeLevel = 3;
}  // namespace

Bytes seal_envelope(const EnvelopeKind& kind, ByteSpan plain) {
  CHECK(plain.size() <= kind.most_plain_bytes);
  Bytes sealed(kHeaderBytes + ZSTD_compressBound(plain.size()));
  const std::size_t payload =
      ZSTD_compress(sealed.data() + kHeaderBytes, sealed.size() - kHeaderBytes, plain.data(),
                    plain.size(), kEnvelopeLevel);
  CHECK(ZSTD_isError(payload) == 0);
  store_le(sealed.data(), kind.magic);
  store_le(sealed.data() + 4, kind.version);
  store_le(sealed.data() + 6, std::uint16_t{0});
  store_le(sealed.data() + 8, static_cast<std::uint32_t>(plain.size()));
  store_le(sealed.data() + 12, static_cast<std::uint32_t>(payload));
  store_le(sealed.data() + 16, fast_hash(plain));
  sealed.resize(kHeaderBytes + payload);
  return sealed;
}

Result<std::size_t> plain_bytes(const EnvelopeKind& kind, ByteSpan sealed) {
  if (sealed.size() < kHeaderBytes) {
    return fail(ErrorCode::kTruncated, "{}: {} bytes are no header", kind.name, sealed.size());
  }
  if (load_le<std::uint32_t>(sealed.data()) != kind.magic) {
    return fail(ErrorCode::kBadMagic, "not a {}", kind.name);
  }
  const auto version = load_le<std::uint16_t>(sealed.data() + 4);
  if (version != kind.version) {
    return fail(ErrorCode::kBadVersion, "{} of version {}, this build reads {}", kind.name, version,
                kind.version);
  }
  const std::size_t plain = load_le<std::uint32_t>(sealed.data() + 8);
  const std::size_t payload_bytes = load_le<std::uint32_t>(sealed.data() + 12);
  if (plain > kind.most_plain_bytes) {
    return fail(ErrorCode::kTooLarge, "{} of {} bytes", kind.name, plain);
  }
  const ByteSpan payload = sealed.subspan(kHeaderBytes);
  if (payload.size() < payload_bytes) {
    return fail(ErrorCode::kTruncated, "{}: {} of {} bytes", kind.name, payload.size(),
                payload_bytes);
  }
  if (payload.size() > payload_bytes || load_le<std::uint16_t>(sealed.data() + 6) != 0) {
    return fail(ErrorCode::kMalformed, "{}: its header contradicts its size", kind.name);
  }
  return plain;
}

Result<Bytes> open_envelope(const EnvelopeKind& kind, ByteSpan sealed) {
  Bytes plain(TRY(plain_bytes(kind, sealed)));
  const ByteSpan payload = sealed.subspan(kHeaderBytes);
  const std::size_t n = ZSTD_decompress(plain.data(), plain.size(), payload.data(), payload.size());
  if (ZSTD_isError(n) != 0 || n != plain.size()) {
    return fail(ErrorCode::kMalformed, "{}: does not decompress to {} bytes", kind.name,
                plain.size());
  }
  if (fast_hash(plain) != load_le<std::uint64_t>(sealed.data() + 16)) {
    return fail(ErrorCode::kChecksumMismatch, "{}", kind.name);
  }
  return plain;
}

Result<std::size_t> sealed_bytes(ByteSpan bytes) {
  if (bytes.size() < kHeaderBytes) {
    return fail(ErrorCode::kTruncated, "{} bytes are no header", bytes.size());
  }
  const std::size_t payload_bytes = load_le<std::uint32_t>(bytes.data() + 12);
  if (payload_bytes > bytes.size() - kHeaderBytes) {
    return fail(ErrorCode::kTruncated, "{} of {} bytes", bytes.size() - kHeaderBytes,
                payload_bytes);
  }
  return kHeaderBytes + payload_bytes;
}

}  // namespace thaw
