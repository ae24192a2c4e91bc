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
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/event_fd.h"
#include "base/types.h"

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
  Answers(const UniqueFd& device, std::atomic<bool>& hang) : device_(device), hang_(hang) {}

  void answer(ByteSpan request) {
    const auto head = struct_of<fuse_in_header>(request);
    const ByteSpan body = request.subspan(sizeof(head));
    switch (head.opcode) {
      case FUSE_WRITE:
        hang_ = true;
        return;
      case FUSE_FORGET:
      case FUSE_BATCH_FORGET:
        return;  // they want no answer
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
  std::atomic<bool>& hang_;
  int opened_ = 0;
};

}  // namespace

HangingFiles::HangingFiles(const std::string& directory)
    : directory_(directory),
      device_(::open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK)),
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
  ::umount2(directory_.c_str(), MNT_FORCE | MNT_DETACH);  // the kernel ends what waits
  device_.reset();
}

void HangingFiles::serve() {
  Answers answers(device_, hang_);
  Bytes request(2 * kMostBytes);
  std::array<pollfd, 2> ready{pollfd{device_.get(), POLLIN, 0}, pollfd{stopped_.get(), POLLIN, 0}};
  while (::poll(ready.data(), ready.size(), -1) >= 0 && ready[1].revents == 0) {
    const ssize_t n = ::read(device_.get(), request.data(), request.size());
    if (n > 0) answers.answer(ByteSpan(request).first(static_cast<std::size_t>(n)));
  }
}

/// A file that is mapped without the page cache first has what is dirty there written, which is not
/// answered.
Result<void> hold_own_locks(const std::string& file, void* page) {
  const UniqueFd cached(::open(file.c_str(), O_RDWR | O_CLOEXEC));
  const UniqueFd direct(::open(file.c_str(), O_RDWR | O_CLOEXEC));
  constexpr int kBoth = PROT_READ | PROT_WRITE;
  void* const dirty = ::mmap(nullptr, kPageBytes, kBoth, MAP_SHARED, cached.get(), 0);
  if (dirty == MAP_FAILED) return fail_errno("mmap of a cached file");
  static_cast<std::byte*>(dirty)[0] = std::byte{1};
  static_cast<void>(::mmap(page, kPageBytes, kBoth, MAP_PRIVATE | MAP_FIXED, direct.get(), 0));
  return {};
}

}  // namespace thaw::test
