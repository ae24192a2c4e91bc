#pragma once

#include <string>
#include <thread>

#include "base/bytes.h"
#include "base/error.h"
#include "tests/support/loopback.h"

namespace thaw::bench {

/// What a restore that downloads its whole image first does, at its best: one zstd stream (level 1)
/// that was made before, over one connection, decompressed while it arrives.

/// The image as one zstd stream.
Bytes compress_image(ByteSpan image);

/// Sends the stream to whoever connects, on a thread of its own and the host of the thread that
/// makes it.
class ImageSender {
 public:
  ImageSender(const std::string& host, Bytes stream);
  ~ImageSender();
  std::string address() const { return listener_.address.text(); }

 private:
  void serve() const;

  const test::TcpListener listener_;
  const Bytes stream_;
  std::jthread thread_;  // the last member: it uses the others
};

/// Receives an image into the file `path`, leaving holes where it is zero. Returns its size.
Result<ByteCount> download_image(const std::string& address, const std::string& path);

}  // namespace thaw::bench
