#include "faulthandler/sys/uring_loop.h"

#include <cerrno>

#include <liburing.h>

#include "base/log.h"

namespace thaw {

namespace {

constexpr unsigned kEntries = 1024;

static_assert(sizeof(Operation::Interval) == sizeof(__kernel_timespec));

class UringLoop final : public Loop {
 public:
  UringLoop() = default;
  UringLoop(const UringLoop&) = delete;
  UringLoop& operator=(const UringLoop&) = delete;
  ~UringLoop() override {
    if (ready_) io_uring_queue_exit(&ring_);
  }

  Result<void> open() {
    const int status = io_uring_queue_init(kEntries, &ring_, 0);
    if (status < 0) return fail_errno("io_uring_queue_init", -status);
    ready_ = true;
    return {};
  }

  void poll(const UniqueFd& fd, short events, Operation& operation) override {
    io_uring_prep_poll_add(prepare(operation), fd.get(), static_cast<unsigned>(events));
    finish(operation);
  }
  void receive(const UniqueFd& socket, MutableByteSpan to, Operation& operation) override {
    io_uring_prep_recv(prepare(operation), socket.get(), to.data(), to.size(), 0);
    finish(operation);
  }
  void send(const UniqueFd& socket, ByteSpan from, Operation& operation) override {
    io_uring_prep_send(prepare(operation), socket.get(), from.data(), from.size(), MSG_NOSIGNAL);
    finish(operation);
  }
  void connect(const UniqueFd& socket, const TcpAddress& address, Operation& operation) override {
    // SAFETY: sockaddr_storage exists to be passed as sockaddr.
    const auto* const raw = reinterpret_cast<const sockaddr*>(&address.storage);
    io_uring_prep_connect(prepare(operation), socket.get(), raw, address.length);
    finish(operation);
  }
  void wait(Nanoseconds duration, Operation& operation) override {
    operation.interval = {duration.count() / 1'000'000'000, duration.count() % 1'000'000'000};
    // SAFETY: Interval has the layout of __kernel_timespec, and lives as long as the operation.
    auto* const interval = reinterpret_cast<__kernel_timespec*>(&operation.interval);
    io_uring_prep_timeout(prepare(operation), interval, 0, 0);
    finish(operation);
  }
  void cancel(Operation& operation) override {
    if (!operation.active()) return;
    io_uring_sqe* const entry = next_entry();
    io_uring_prep_cancel(entry, &operation, 0);
    io_uring_sqe_set_data(entry, nullptr);
  }

  void run(const std::function<void()>& after_turn) override {
    while (!stopped_) {
      const int status = io_uring_submit_and_wait(&ring_, 1);
      // EINTR: a signal; EBUSY and EAGAIN: completions must be taken first.
      if (status < 0 && status != -EINTR && status != -EBUSY && status != -EAGAIN) {
        log_error("io_uring_submit_and_wait failed with errno {}", -status);
        check_failed("the event loop can wait", __FILE__, __LINE__);
      }
      complete_all();
      after_turn();
    }
    cancel_everything();
  }
  void stop() override { stopped_ = true; }
  void set_spin(Nanoseconds) override {}

 private:
  io_uring_sqe* next_entry() {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    if (entry == nullptr) {
      io_uring_submit(&ring_);
      entry = io_uring_get_sqe(&ring_);
    }
    CHECK(entry != nullptr);
    last_ = entry;
    return entry;
  }
  io_uring_sqe* prepare(Operation& operation) {
    operation.begin();
    ++under_way_;
    return next_entry();
  }

  void cancel_everything() {
    while (under_way_ > 0) {
      io_uring_sqe* const entry = next_entry();
      io_uring_prep_cancel(entry, nullptr, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
      io_uring_sqe_set_data(entry, nullptr);
      io_uring_submit_and_wait(&ring_, 1);
      complete_all();
    }
  }

  /// The preparing calls of liburing clear the entry, so its owner is set last.
  void finish(Operation& operation) { io_uring_sqe_set_data(last_, &operation); }

  void complete_all() {
    io_uring_cqe* entry = nullptr;
    while (io_uring_peek_cqe(&ring_, &entry) == 0) {
      auto* const operation = static_cast<Operation*>(io_uring_cqe_get_data(entry));
      const int result = entry->res;
      io_uring_cqe_seen(&ring_, entry);
      if (operation == nullptr) continue;  // the result of a cancel
      --under_way_;
      operation->complete(result);
    }
  }

  io_uring ring_{};
  io_uring_sqe* last_ = nullptr;
  std::size_t under_way_ = 0;
  bool ready_ = false;
  bool stopped_ = false;
};

}  // namespace

Result<std::unique_ptr<Loop>> create_uring_loop() {
  auto loop = std::make_unique<UringLoop>();
  TRY(loop->open());
  return loop;
}

}  // namespace thaw
