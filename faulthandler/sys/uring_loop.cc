#include "faulthandler/sys/uring_loop.h"

#include <algorithm>
#include <cerrno>
#include <optional>
#include <vector>

#include <liburing.h>

#include "base/log.h"
#include "faulthandler/limits.h"
#include "faulthandler/sys/spin.h"

namespace thaw {

namespace {

constexpr unsigned kEntries = 1024;
constexpr unsigned kRegisteredBuffers = 16;
/// Room for a result of everything that can be under way: a session has nine operations.
constexpr unsigned kResults = 16384;
static_assert(kResults > 9 * limits::kMaxSessions);

static_assert(sizeof(Operation::Interval) == sizeof(__kernel_timespec));

class UringLoop final : public Loop {
 public:
  UringLoop() = default;
  UringLoop(const UringLoop&) = delete;
  UringLoop& operator=(const UringLoop&) = delete;
  ~UringLoop() override {
    if (ready_) io_uring_queue_exit(&ring_);
  }

  Result<void> open(RingFeatures features) {
    // Results are made when this thread asks for them, instead of interrupting it.
    int status = -EINVAL;
    if (features == RingFeatures::kLinux61) {
      status = open_with(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
    }
    has_linux61_ = status == 0;
    if (status == -EINVAL) status = open_with(0);
    if (status < 0) return fail_errno("io_uring_setup", -status);
    ready_ = true;
    has_registered_buffers_ = io_uring_register_buffers_sparse(&ring_, kRegisteredBuffers) == 0;
    return {};
  }

  void poll(const UniqueFd& fd, short events, Operation& operation) override {
    io_uring_prep_poll_add(prepare(operation), fd.get(), static_cast<unsigned>(events));
    finish(operation);
  }
  void keep_at_hand(MutableByteSpan memory) override {
    if (!has_registered_buffers_ || registered_.size() == kRegisteredBuffers) return;
    const iovec buffer{memory.data(), memory.size()};
    const __u64 tag = 0;
    const auto index = static_cast<unsigned>(registered_.size());
    const int status = io_uring_register_buffers_update_tag(&ring_, index, &buffer, &tag, 1);
    if (status == 1) return registered_.push_back(memory);
    log_warning("receiving without registered buffers: errno {}", -status);
  }
  void receive(const UniqueFd& socket, MutableByteSpan to, Operation& operation) override {
    io_uring_sqe* const entry = prepare(operation);
    if (const auto index = registered_index(to)) {
      io_uring_prep_read_fixed(entry, socket.get(), to.data(), static_cast<unsigned>(to.size()), 0,
                               *index);
      return finish(operation);
    }
    io_uring_prep_recv(entry, socket.get(), to.data(), to.size(), 0);
    // What is received answers what has just been sent: there is nothing to receive yet.
    if (has_linux61_) entry->ioprio |= IORING_RECVSEND_POLL_FIRST;
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

  void set_spin(Nanoseconds spin) override { spin_.set(spin); }

  void run(const Turn& turn) override {
    while (!stopped_) {
      submit(spin_.active() ? Then::kLook : Then::kSleep);
      turn.before();
      if (complete_all()) spin_.restart();
      turn.after();
    }
    while (!under_way_.empty()) {
      for (Operation* const operation : under_way_) cancel(*operation);
      submit(Then::kSleep);
      complete_all();
    }
  }
  void stop() override { stopped_ = true; }

 private:
  enum class Then { kLook, kSleep };

  int open_with(unsigned flags) {
    io_uring_params parameters{};
    parameters.flags = flags | IORING_SETUP_CQSIZE;
    parameters.cq_entries = kResults;
    return io_uring_queue_init_params(kEntries, &ring_, &parameters);
  }

  std::optional<int> registered_index(MutableByteSpan part) const {
    const auto holds = [&](MutableByteSpan whole) {
      return part.data() >= whole.data() && part.data() < whole.data() + whole.size();
    };
    const auto found = std::ranges::find_if(registered_, holds);
    if (found == registered_.end()) return std::nullopt;
    return static_cast<int>(found - registered_.begin());
  }

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
    operation.place = std::ssize(under_way_);
    under_way_.push_back(&operation);
    return next_entry();
  }
  /// The preparing calls of liburing clear the entry, so its owner is set last.
  void finish(Operation& operation) { io_uring_sqe_set_data(last_, &operation); }

  /// Submits what was prepared, and has the kernel deliver results: those that are there, or at
  /// least one.
  void submit(Then then) {
    const int status = then == Then::kLook ? io_uring_submit_and_get_events(&ring_)
                                           : io_uring_submit_and_wait(&ring_, 1);
    // EINTR: a signal; EBUSY and EAGAIN: completions must be taken first.
    if (status < 0 && status != -EINTR && status != -EBUSY && status != -EAGAIN) {
      log_error("io_uring_enter failed with errno {}", -status);
      check_failed("the event loop can wait", __FILE__, __LINE__);
    }
  }

  /// Whether there was anything to complete.
  bool complete_all() {
    bool any = false;
    io_uring_cqe* entry = nullptr;
    while (io_uring_peek_cqe(&ring_, &entry) == 0) {
      auto* const operation = static_cast<Operation*>(io_uring_cqe_get_data(entry));
      const int result = entry->res;
      io_uring_cqe_seen(&ring_, entry);
      if (operation == nullptr) continue;  // the result of a cancel
      any = true;
      under_way_.back()->place = operation->place;
      std::swap(under_way_[static_cast<std::size_t>(operation->place)], under_way_.back());
      under_way_.pop_back();
      operation->complete(result);
    }
    return any;
  }

  io_uring ring_{};
  io_uring_sqe* last_ = nullptr;
  std::vector<Operation*> under_way_;        // each at its `place`
  std::vector<MutableByteSpan> registered_;  // by their index in the ring
  Spin spin_;
  bool ready_ = false;
  bool has_linux61_ = false;
  bool has_registered_buffers_ = false;  // Linux 5.19
  bool stopped_ = false;
};

}  // namespace

Result<std::unique_ptr<Loop>> create_uring_loop(RingFeatures features) {
  auto loop = std::make_unique<UringLoop>();
  TRY(loop->open(features));
  return loop;
}

}  // namespace thaw
