#include "tests/support/hanging_files.h"

#include <array>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/event_fd.h"

namespace thaw::test {

namespace {

constexpr std::uint64_t kFile = 2;  // the root is FUSE_ROOT_ID
constexpr std::string_view kName("file\0", 5);
constexpr std::size_t kMostBytes = 1 << 16;  // of one read or write

fuse_attr attributes(std::uint64_t node) {
  fuse_attr of{};
  of.ino = node;
  of.size = kMostBytes;
  of.mode = node == kFile ? S_IFREG | 0666 : S_IFDIR | 0777;
  of.nlink = 1;
  of.blksize = 4096;
  return of;
}

template <typename Struct>
Bytes bytes_of(const Struct& value) {
  const ByteSpan bytes = std::as_bytes(std::span(&value, 1));
  return {bytes.begin(), bytes.end()};
}

template <typename Struct>
Struct struct_of(ByteSpan bytes) {
  Struct value;
  CHECK(bytes.size() >= sizeof(value));
  std::memcpy(&value, bytes.data(), sizeof(value));
  return value;
}

/// Answers one request after the other, as https://docs.kernel.org/filesystems/fuse and
/// linux/fuse.h say.
class Answers {
 public:
  explicit Answers(const UniqueFd& device) : device_(device) {}

  void answer(ByteSpan request) {
    const auto head = struct_of<fuse_in_header>(request);
    const ByteSpan body = request.subspan(sizeof(head));
    switch (head.opcode) {
      case FUSE_WRITE:
      case FUSE_FORGET:
      case FUSE_BATCH_FORGET:
        return;  // the first is what hangs, the others want no answer
      case FUSE_INIT: {
        fuse_init_out ours{};
        ours.major = FUSE_KERNEL_VERSION;
        ours.minor = FUSE_KERNEL_MINOR_VERSION;
        ours.max_write = kMostBytes;
        return reply(head, bytes_of(ours));
      }
      case FUSE_LOOKUP: {
        if (as_text(body).substr(0, kName.size()) != kName) break;
        fuse_entry_out found{};
        found.nodeid = kFile;
        found.attr = attributes(kFile);
        return reply(head, bytes_of(found));
      }
      case FUSE_GETATTR: {
        fuse_attr_out found{};
        found.attr = attributes(head.nodeid);
        return reply(head, bytes_of(found));
      }
      case FUSE_OPEN: {
        fuse_open_out open{};
        if (++opened_ == 2) open.open_flags = FOPEN_DIRECT_IO;
        return reply(head, bytes_of(open));
      }
      case FUSE_READ:
        return reply(head, Bytes(struct_of<fuse_read_in>(body).size));
      case FUSE_STATFS:
        return reply(head, bytes_of(fuse_statfs_out{}));
      case FUSE_FLUSH:
      case FUSE_RELEASE:
        return reply(head, {});
      default:
        break;
    }
    refuse(head, head.opcode == FUSE_LOOKUP ? ENOENT : ENOSYS);
  }

 private:
  void reply(const fuse_in_header& head, const Bytes& body) { write(head, 0, body); }
  void refuse(const fuse_in_header& head, int error) { write(head, -error, {}); }
  void write(const fuse_in_header& head, int error, const Bytes& body) {
    const auto size = static_cast<std::uint32_t>(sizeof(fuse_out_header) + body.size());
    Bytes answer = bytes_of(fuse_out_header{.len = size, .error = error, .unique = head.unique});
    answer.insert(answer.end(), body.begin(), body.end());
    // Who asked may have been killed meanwhile.
    static_cast<void>(::write(device_.get(), answer.data(), answer.size()));
  }

  const UniqueFd& device_;
  int opened_ = 0;
};

}  // namespace

HangingFiles::HangingFiles(const std::string& directory)
    : device_(::open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK)),
      stopped_(create_event_fd().value()) {
  CHECK(device_.valid() && ::unshare(CLONE_NEWNS) == 0);
  CHECK(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
  const auto options =
      fmt::format("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device_.get());
  CHECK(::mount("hanging", directory.c_str(), "fuse", 0, options.c_str()) == 0);
  thread_ = std::jthread([this] { serve(); });
}

void HangingFiles::release() {
  if (!thread_.joinable()) return;
  signal_event_fd(stopped_);
  thread_.join();
  device_.reset();  // the kernel ends what waits
}

void HangingFiles::serve() {
  Answers answers(device_);
  Bytes request(2 * kMostBytes);
  std::array<pollfd, 2> ready{pollfd{device_.get(), POLLIN, 0}, pollfd{stopped_.get(), POLLIN, 0}};
  while (::poll(ready.data(), ready.size(), -1) >= 0 && ready[1].revents == 0) {
    const ssize_t n = ::read(device_.get(), request.data(), request.size());
    if (n > 0) answers.answer(ByteSpan(request).first(static_cast<std::size_t>(n)));
  }
}

}  // namespace thaw::test
