#include "cli/sys/uring_reads.h"

#include <array>
#include <cerrno>

#include <liburing.h>

#include "base/check.h"

namespace thaw {

namespace {

class UringReads final : public BlockReads {
 public:
  UringReads() = default;
  UringReads(const UringReads&) = delete;
  UringReads& operator=(const UringReads&) = delete;
  ~UringReads() override {
    if (!ready_) return;
    // The kernel may write into the memory until the last read is done.
    io_uring_cqe* entry = nullptr;
    while (under_way_ > 0 && wait(entry)) {
      io_uring_cqe_seen(&ring_, entry);
      --under_way_;
    }
    io_uring_queue_exit(&ring_);
  }

  Result<void> open(MutableByteSpan memory) {
    const int status = io_uring_queue_init(kMost, &ring_, 0);
    if (status < 0) return fail_errno("io_uring_setup", -status);
    ready_ = true;
    const iovec whole{memory.data(), memory.size()};
    // Refused where locked memory is scarce; reads go without then.
    registered_ = io_uring_register_buffers(&ring_, &whole, 1) == 0;
    for (Read& read : reads_) free_.push_back(&read);
    return {};
  }

  Result<void> begin(const FileRead& what, std::size_t owner) override {
    CHECK(!free_.empty());
    Read* const read = free_.back();
    free_.pop_back();
    *read = {what, owner};
    ++under_way_;
    return submit(*read);
  }
  std::size_t under_way() const override { return under_way_; }
  bool any_finished() override { return io_uring_cq_ready(&ring_) > 0; }

  Result<std::size_t> finish_one() override {
    while (true) {
      io_uring_cqe* entry = nullptr;
      if (!wait(entry)) return fail(ErrorCode::kIo, "io_uring gives no results");
      Read& read = *static_cast<Read*>(io_uring_cqe_get_data(entry));
      const int result = entry->res;
      io_uring_cqe_seen(&ring_, entry);
      if (TRY(take(read, result))) {
        free_.push_back(&read);
        --under_way_;
        return read.owner;
      }
      TRY(submit(read));
    }
  }

 private:
  struct Read {
    FileRead what;
    std::size_t owner = 0;
  };

  bool wait(io_uring_cqe*& entry) {
    int status = -EINTR;
    while (status == -EINTR) status = io_uring_wait_cqe(&ring_, &entry);
    return status == 0;
  }

  /// Whether that was all of it.
  Result<bool> take(Read& read, int result) {
    if (result == -EINTR || result == -EAGAIN) return false;
    if (result <= 0) --under_way_;
    if (result < 0) return fail_errno(fmt::format("read at offset {}", read.what.offset), -result);
    if (result == 0) {
      return fail(ErrorCode::kTruncated, "the file ends at offset {}", read.what.offset);
    }
    read.what.to = read.what.to.subspan(static_cast<std::size_t>(result));
    read.what.offset += static_cast<std::uint64_t>(result);
    return read.what.to.empty();
  }

  Result<void> submit(Read& read) {
    io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
    CHECK(entry != nullptr);
    const int fd = read.what.file->get();
    const auto length = static_cast<unsigned>(read.what.to.size());
    if (registered_) {
      io_uring_prep_read_fixed(entry, fd, read.what.to.data(), length, read.what.offset, 0);
    } else {
      io_uring_prep_read(entry, fd, read.what.to.data(), length, read.what.offset);
    }
    io_uring_sqe_set_data(entry, &read);
    int status = -EINTR;
    while (status == -EINTR) status = io_uring_submit(&ring_);
    if (status >= 0) return {};
    --under_way_;
    return fail_errno("io_uring_enter", -status);
  }

  io_uring ring_{};
  std::array<Read, kMost> reads_;
  std::vector<Read*> free_;
  std::size_t under_way_ = 0;
  bool ready_ = false;
  bool registered_ = false;
};

}  // namespace

Result<std::unique_ptr<BlockReads>> create_uring_reads(MutableByteSpan memory) {
  auto reads = std::make_unique<UringReads>();
  TRY(reads->open(memory));
  return reads;
}

}  // namespace thaw
