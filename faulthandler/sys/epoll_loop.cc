#include "faulthandler/sys/epoll_loop.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <span>
#include <vector>

#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/log.h"
#include "faulthandler/sys/spin.h"

namespace thaw {

namespace {

constexpr int kEventsPerTurn = 256;
/// epoll reports these whether they are asked for or not.
constexpr std::uint32_t kAlways = EPOLLERR | EPOLLHUP;

// Operation::place is the descriptor that an operation waits on, or one of these.
constexpr std::ptrdiff_t kInDue = -1;
constexpr std::ptrdiff_t kInTimers = -2;

enum class Kind { kPoll, kReceive, kSend, kConnect };

/// An operation that goes on when its descriptor is ready.
struct Waiter {
  Operation* operation;
  Kind kind;
  std::uint32_t interest;
  MutableByteSpan to = {};
  ByteSpan from = {};
};

/// The operations that wait on one descriptor, and what epoll knows of it: 0 when it is not
/// registered.
struct Watch {
  std::vector<Waiter> waiters;
  std::uint32_t registered = 0;
};

struct Timer {
  Clock::time_point due;
  Operation* operation;
};

struct Completion {
  Operation* operation;
  int result;
};

int socket_error(int fd) {
  int error = 0;
  socklen_t length = sizeof(error);
  return ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 ? error : errno;
}

/// Goes on with an operation whose descriptor is ready. Returns its result, or nothing when it has
/// to wait for more.
std::optional<int> attempt(int fd, const Waiter& waiter, std::uint32_t ready) {
  ssize_t bytes = 0;
  switch (waiter.kind) {
    case Kind::kPoll:
      return static_cast<int>(ready & (waiter.interest | kAlways));
    case Kind::kConnect:
      return -socket_error(fd);
    case Kind::kReceive:
      bytes = ::recv(fd, waiter.to.data(), waiter.to.size(), MSG_DONTWAIT);
      break;
    case Kind::kSend:
      bytes = ::send(fd, waiter.from.data(), waiter.from.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      break;
  }
  if (bytes >= 0) return static_cast<int>(bytes);
  if (errno == EAGAIN || errno == EINTR) return std::nullopt;
  return -errno;
}

/// What is ready to go on is carried out first, its descriptors are unregistered where nothing else
/// waits on them, and only then callbacks run. So they may close descriptors and open others of the
/// same number. Its containers keep their capacity: a loop that has warmed up allocates nothing.
class EpollLoop final : public Loop {
 public:
  explicit EpollLoop(UniqueFd epoll) : epoll_(std::move(epoll)) {}

  void poll(const UniqueFd& fd, short events, Operation& operation) override {
    // The bits of poll(2) and of epoll are the same.
    const std::uint32_t interest = static_cast<unsigned short>(events);
    begin(operation);
    wait_on(fd, {.operation = &operation, .kind = Kind::kPoll, .interest = interest});
  }
  void keep_at_hand(MutableByteSpan) override {}
  void receive(const UniqueFd& socket, MutableByteSpan to, Operation& operation) override {
    begin(operation);
    wait_on(socket,
            {.operation = &operation, .kind = Kind::kReceive, .interest = EPOLLIN, .to = to});
  }
  void send(const UniqueFd& socket, ByteSpan from, Operation& operation) override {
    begin(operation);
    const Waiter waiter{
        .operation = &operation, .kind = Kind::kSend, .interest = EPOLLOUT, .from = from};
    // Most often there is room, and nothing to wait for.
    if (const auto result = attempt(socket.get(), waiter, 0)) return finish(operation, *result);
    wait_on(socket, waiter);
  }
  void connect(const UniqueFd& socket, const TcpAddress& address, Operation& operation) override {
    begin(operation);
    // SAFETY: sockaddr_storage exists to be passed as sockaddr.
    const auto* const raw = reinterpret_cast<const sockaddr*>(&address.storage);
    if (::connect(socket.get(), raw, address.length) == 0) return finish(operation, 0);
    if (errno != EINPROGRESS && errno != EINTR) return finish(operation, -errno);
    wait_on(socket, {.operation = &operation, .kind = Kind::kConnect, .interest = EPOLLOUT});
  }
  void wait(Nanoseconds duration, Operation& operation) override {
    begin(operation);
    operation.place = kInTimers;
    const Timer timer{Clock::now() + duration, &operation};
    const auto later = std::ranges::lower_bound(timers_, timer.due, std::greater(), &Timer::due);
    timers_.insert(later, timer);
  }
  void cancel(Operation& operation) override {
    if (!operation.active() || operation.place == kInDue) return;
    if (operation.place == kInTimers) {
      std::erase_if(timers_, [&](const Timer& timer) { return timer.operation == &operation; });
    } else {
      forget(operation);
    }
    finish(operation, -ECANCELED);
  }

  void set_spin(Nanoseconds spin) override { spin_.set(spin); }

  void run(const Turn& turn) override {
    while (!stopped_) {
      const std::size_t count = wait_for_events();
      turn.before();
      take_events(std::span(events_).first(count));
      take_timers();
      if (complete_all()) spin_.restart();
      turn.after();
    }
    while (under_way_ > 0) {
      cancel_all();
      complete_all();
    }
  }
  void stop() override { stopped_ = true; }

 private:
  void begin(Operation& operation) {
    operation.begin();
    ++under_way_;
  }
  /// The callback runs when the turn has come to it.
  void finish(Operation& operation, int result) {
    operation.place = kInDue;
    due_.push_back({&operation, result});
  }

  void wait_on(const UniqueFd& fd, const Waiter& waiter) {
    if (!fd.valid()) return finish(*waiter.operation, -EBADF);
    const auto index = static_cast<std::size_t>(fd.get());
    if (index >= watches_.size()) watches_.resize(index + 1);
    waiter.operation->place = fd.get();
    watches_[index].waiters.push_back(waiter);
    if (const int error = update_registration(fd.get()); error != 0) {
      watches_[index].waiters.pop_back();
      finish(*waiter.operation, -error);
    }
  }
  void forget(const Operation& operation) {
    std::erase_if(watches_[static_cast<std::size_t>(operation.place)].waiters,
                  [&](const Waiter& waiter) { return waiter.operation == &operation; });
    CHECK(update_registration(static_cast<int>(operation.place)) == 0);
  }

  /// Makes epoll watch for what the descriptor's operations wait for. Returns 0 or an errno, which
  /// only a descriptor that was not registered can cause.
  int update_registration(int fd) {
    Watch& watch = watches_[static_cast<std::size_t>(fd)];
    epoll_event event{};
    event.data.fd = fd;
    for (const Waiter& waiter : watch.waiters) event.events |= waiter.interest | kAlways;
    if (event.events == watch.registered) return 0;
    const int change = watch.registered == 0 ? EPOLL_CTL_ADD
                       : event.events == 0   ? EPOLL_CTL_DEL
                                             : EPOLL_CTL_MOD;
    if (::epoll_ctl(epoll_.get(), change, fd, &event) != 0) return errno;
    watch.registered = event.events;
    return 0;
  }

  /// Carries out what can go on.
  void take_events(std::span<const epoll_event> events) {
    for (const epoll_event& event : events) {
      const int fd = event.data.fd;
      std::erase_if(watches_[static_cast<std::size_t>(fd)].waiters, [&](const Waiter& waiter) {
        if ((event.events & (waiter.interest | kAlways)) == 0) return false;
        const auto result = attempt(fd, waiter, event.events);
        if (result) finish(*waiter.operation, *result);
        return result.has_value();
      });
      CHECK(update_registration(fd) == 0);
    }
  }
  /// Waits until a descriptor is ready, a timer due or a signal there, and returns how many events
  /// there are.
  std::size_t wait_for_events() {
    const std::optional<Nanoseconds> longest = longest_sleep();
    int count = -1;
    if (has_nanoseconds_) {
      const Nanoseconds left = longest.value_or(Nanoseconds(0));
      const timespec timeout{left.count() / 1'000'000'000, left.count() % 1'000'000'000};
      count = ::epoll_pwait2(epoll_.get(), events_.data(), kEventsPerTurn,
                             longest ? &timeout : nullptr, nullptr);
      has_nanoseconds_ = count >= 0 || errno != ENOSYS;
    }
    if (!has_nanoseconds_) {  // before Linux 5.11
      const int timeout = longest ? Deadline::after(*longest).milliseconds_left() : -1;
      count = ::epoll_wait(epoll_.get(), events_.data(), kEventsPerTurn, timeout);
    }
    if (count < 0 && errno != EINTR) {
      log_error("epoll_wait failed with errno {}", errno);
      check_failed("the event loop can wait", __FILE__, __LINE__);
    }
    return static_cast<std::size_t>(std::max(count, 0));
  }
  /// Nothing: for as long as it takes.
  std::optional<Nanoseconds> longest_sleep() const {
    if (!due_.empty() || spin_.active()) return Nanoseconds(0);
    if (timers_.empty()) return std::nullopt;
    return std::max<Nanoseconds>(timers_.back().due - Clock::now(), Nanoseconds(0));
  }

  void take_timers() {
    if (timers_.empty()) return;
    const auto now = Clock::now();
    while (!timers_.empty() && timers_.back().due <= now) {
      finish(*timers_.back().operation, -ETIME);
      timers_.pop_back();
    }
  }

  /// Whether there was anything to complete. What callbacks finish is for the next turn.
  bool complete_all() {
    completing_.swap(due_);
    for (const Completion& completion : completing_) {
      --under_way_;
      completion.operation->complete(completion.result);
    }
    const bool any = !completing_.empty();
    completing_.clear();
    return any;
  }
  void cancel_all() {
    while (!timers_.empty()) cancel(*timers_.back().operation);
    for (Watch& watch : watches_) {
      while (!watch.waiters.empty()) cancel(*watch.waiters.back().operation);
    }
  }

  const UniqueFd epoll_;
  std::vector<Watch> watches_;          // by descriptor
  std::vector<Timer> timers_;           // the soonest last
  std::vector<Completion> due_;         // whose callbacks are to run
  std::vector<Completion> completing_;  // whose callbacks are running
  std::array<epoll_event, kEventsPerTurn> events_;
  std::size_t under_way_ = 0;
  Spin spin_;
  bool has_nanoseconds_ = true;  // epoll_pwait2 exists
  bool stopped_ = false;
};

}  // namespace

Result<std::unique_ptr<Loop>> create_epoll_loop() {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return fail_errno("epoll_create1");
  return std::make_unique<EpollLoop>(std::move(epoll));
}

}  // namespace thaw
