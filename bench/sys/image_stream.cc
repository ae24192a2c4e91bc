#include "bench/sys/image_stream.h"

#include <algorithm>
#include <array>
#include <memory>

#include <sys/socket.h>
#include <zstd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/partial_file.h"
#include "base/socket.h"
#include "format/chunk.h"
#include "tests/support/programs.h"

namespace thaw::bench {

namespace {

constexpr std::size_t kPieceBytes = 1u << 20;

Result<void> write_without_zeros(const UniqueFd& file, ByteSpan bytes, std::uint64_t offset) {
  for (std::size_t start = 0; start < bytes.size();) {
    const auto is_zero = [&](std::size_t at) {
      return is_zero_page(bytes.subspan(at).first<kPageBytes>());
    };
    std::size_t end = start;
    while (end < bytes.size() && !is_zero(end)) end += kPageBytes;
    if (end > start) TRY(write_at(file, bytes.subspan(start, end - start), offset + start));
    start = end;
    while (start < bytes.size() && is_zero(start)) start += kPageBytes;
  }
  return {};
}

}  // namespace

Bytes compress_image(ByteSpan image) {
  Bytes stream(ZSTD_compressBound(image.size()));
  const std::size_t size =
      ZSTD_compress(stream.data(), stream.size(), image.data(), image.size(), /*level=*/1);
  CHECK(ZSTD_isError(size) == 0);
  stream.resize(size);
  return stream;
}

ImageSender::ImageSender(const std::string& host, Bytes stream)
    : listener_(host), stream_(std::move(stream)), thread_([this] { serve(); }) {}

ImageSender::~ImageSender() {
  shut_down(listener_.socket);
  thread_.join();
}

void ImageSender::serve() const {
  while (true) {
    const UniqueFd client(::accept4(listener_.socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!client.valid()) return;
    static_cast<void>(send_all(client, stream_, Deadline::after(test::kPatience)));
  }
}

Result<ByteCount> download_image(const std::string& address, const std::string& path) {
  PartialFile file = TRY(PartialFile::create(path));
  const TcpAddress from_where = TRY(resolve_tcp(address));
  const UniqueFd socket = TRY(connect_tcp(from_where, Deadline::after(test::kPatience)));
  const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(ZSTD_createDCtx(),
                                                                     &ZSTD_freeDCtx);
  Bytes received(kPieceBytes);
  Bytes plain(kPieceBytes);
  std::uint64_t size = 0;
  ZSTD_outBuffer to{plain.data(), plain.size(), 0};
  while (const std::size_t n =
             TRY(receive_some(socket, received, Deadline::after(test::kPatience)))) {
    ZSTD_inBuffer from{received.data(), n, 0};
    while (from.pos < from.size) {
      const std::size_t status = ZSTD_decompressStream(context.get(), &to, &from);
      if (ZSTD_isError(status) != 0) {
        return fail(ErrorCode::kMalformed, "the stream: {}", ZSTD_getErrorName(status));
      }
      if (to.pos < to.size && status != 0) continue;
      TRY(write_without_zeros(file.fd(), ByteSpan(plain).first(to.pos), size));
      size += to.pos;
      to.pos = 0;
    }
  }
  TRY(resize_file(file.fd(), {size}));
  TRY(file.publish());
  return ByteCount{size};
}

}  // namespace thaw::bench
