#include "bench/floors.h"

#include <array>
#include <optional>
#include <thread>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <netinet/tcp.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/mapping.h"
#include "base/socket.h"
#include "base/userfaultfd.h"
#include "bench/cpu.h"
#include "bench/figures.h"

namespace thaw::bench {

namespace {

constexpr std::size_t kRequestBytes = 32;
constexpr std::size_t kReplyBytes = 1400;

double us_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

/// Answers `faults` faults. A descriptor that is closed lets the toucher read zeros: it never
/// waits for a reader that failed.
Result<double> answer_faults(UniqueFd uffd, const Placement& placement, std::size_t faults) {
  TRY(pin_this_thread(placement.handler_cpu));
  const std::vector<std::byte> page(kPageBytes, std::byte{1});
  std::array<uffd_msg, 16> events;
  const double before = thread_cpu_us();
  for (std::size_t answered = 0; answered < faults;) {
    const ssize_t n = ::read(uffd.get(), events.data(), sizeof(events));
    if (n < 0 && errno != EAGAIN) return fail_errno("read userfaultfd");
    const std::size_t count = n < 0 ? 0 : static_cast<std::size_t>(n) / sizeof(uffd_msg);
    for (const uffd_msg& event : std::span(events).first(count)) {
      if (event.event != UFFD_EVENT_PAGEFAULT) {
        return fail(ErrorCode::kIo, "a memory event that is no fault");
      }
      const HostAddress at{event.arg.pagefault.address & ~std::uint64_t{kPageBytes - 1}};
      if (copy_pages(uffd, at, page).outcome != FillOutcome::kFilled) {
        return fail_errno("UFFDIO_COPY");
      }
      ++answered;
    }
  }
  return (thread_cpu_us() - before) / static_cast<double>(faults);
}

struct Touches {
  std::vector<double> us;
  double cpu_us;
};
/// Touches every page even if it cannot be pinned: the reader waits for that many faults.
Result<Touches> touch(ByteSpan memory, const Placement& placement) {
  const Result<void> pinned = pin_this_thread(placement.guest_cpu);
  Touches touches{std::vector<double>(memory.size() / kPageBytes), 0};
  const double before = thread_cpu_us();
  for (std::size_t i = 0; i < touches.us.size(); ++i) {
    const volatile std::byte* const at = memory.data() + i * kPageBytes;
    const Clock::time_point start = Clock::now();
    (void)*at;
    touches.us[i] = us_since(start);
  }
  touches.cpu_us = (thread_cpu_us() - before) / static_cast<double>(touches.us.size());
  if (!pinned) return std::unexpected(pinned.error());
  return touches;
}

Result<UniqueFd> without_delay(int fd, const char* what) {
  UniqueFd socket(fd);
  const int on = 1;
  if (!socket.valid() ||
      ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0) {
    return fail_errno(what);
  }
  return socket;
}

struct Connection {
  UniqueFd client;
  UniqueFd server;
};
/// Two blocking ends of a TCP connection over loopback.
Result<Connection> connect_loopback() {
  const UniqueFd listener =
      TRY(without_delay(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "TCP socket"));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  // SAFETY: the socket calls take any address family by this type.
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  if (::bind(listener.get(), generic, length) != 0 || ::listen(listener.get(), 1) != 0 ||
      ::getsockname(listener.get(), generic, &length) != 0) {
    return fail_errno("listen on loopback");
  }
  Connection connection;
  connection.client =
      TRY(without_delay(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "TCP socket"));
  if (::connect(connection.client.get(), generic, length) != 0) return fail_errno("connect");
  connection.server =
      TRY(without_delay(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC), "accept"));
  return connection;
}

/// The server's process: a reply for each request until the client has closed.
[[noreturn]] void serve(const UniqueFd& socket, const Placement& placement) {
  std::array<std::byte, kRequestBytes> request;
  const std::array<std::byte, kReplyBytes> reply{};
  if (!pin_this_thread(placement.server_cpu)) ::_exit(1);
  while (::recv(socket.get(), request.data(), request.size(), MSG_WAITALL) ==
         static_cast<ssize_t>(request.size())) {
    if (::send(socket.get(), reply.data(), reply.size(), MSG_NOSIGNAL) < 0) break;
  }
  ::_exit(0);
}

Result<double> ask(const UniqueFd& socket, Placement::Waiting waiting) {
  const std::array<std::byte, kRequestBytes> request{};
  std::array<std::byte, kReplyBytes> reply;
  const int flags = waiting == Placement::Waiting::kSpinning ? MSG_DONTWAIT : 0;
  const Clock::time_point start = Clock::now();
  if (::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) {
    return fail_errno("send a request");
  }
  for (std::size_t received = 0; received < reply.size();) {
    const ssize_t n = ::recv(socket.get(), reply.data() + received, reply.size() - received, flags);
    if (n == 0) return fail(ErrorCode::kUnavailable, "the server of the floor has ended");
    if (n < 0 && errno != EAGAIN && errno != EINTR) return fail_errno("receive a reply");
    if (n > 0) received += static_cast<std::size_t>(n);
  }
  return us_since(start);
}

Result<FloorSample> ask_many(const UniqueFd& socket, const Placement& placement,
                             std::size_t repetitions, pid_t server) {
  TRY(pin_this_thread(placement.handler_cpu));
  std::vector<double> us;
  us.reserve(repetitions);
  TRY(ask(socket, placement.waiting));
  const double own_before = thread_cpu_us();
  const double peer_before = TRY(process_cpu_us(server));
  for (std::size_t i = 0; i < repetitions; ++i) us.push_back(TRY(ask(socket, placement.waiting)));
  const double count = static_cast<double>(repetitions);
  return FloorSample{.us = median(us),
                     .own_cpu_us = (thread_cpu_us() - own_before) / count,
                     .peer_cpu_us = (TRY(process_cpu_us(server)) - peer_before) / count};
}

/// Runs `work` on a thread of its own, so that where it is pinned stays its own matter.
template <typename Work>
auto on_a_thread(Work work) {
  std::optional<decltype(work())> result;
  std::jthread([&] { result.emplace(work()); }).join();
  return *std::move(result);
}

}  // namespace

Result<FloorSample> measure_fault(const Placement& placement, std::size_t repetitions) {
  const Mapping memory = TRY(Mapping::anonymous(bytes_of({repetitions})));
  UniqueFd uffd = TRY(create_userfaultfd());
  TRY(register_missing(uffd, memory.address(), memory.size()));
  if (placement.waiting == Placement::Waiting::kSleeping && ::fcntl(uffd.get(), F_SETFL, 0) != 0) {
    return fail_errno("make a userfaultfd block");
  }
  std::optional<Result<double>> handler_cpu;
  std::jthread handler(
      [&] { handler_cpu.emplace(answer_faults(std::move(uffd), placement, repetitions)); });
  const auto touches = on_a_thread([&] { return touch(memory.bytes(), placement); });
  handler.join();
  if (!touches) return std::unexpected(touches.error());
  return FloorSample{median(touches->us), TRY(*std::move(handler_cpu)), touches->cpu_us};
}

Result<FloorSample> measure_request(const Placement& placement, std::size_t repetitions) {
  Connection connection = TRY(connect_loopback());
  const pid_t server = ::fork();
  if (server < 0) return fail_errno("fork");
  if (server == 0) {
    connection.client.reset();
    serve(connection.server, placement);
  }
  connection.server.reset();
  auto sample =
      on_a_thread([&] { return ask_many(connection.client, placement, repetitions, server); });
  connection.client.reset();
  CHECK(::waitpid(server, nullptr, 0) == server);
  return sample;
}

Result<double> measure_copies(std::size_t pages) {
  constexpr std::size_t kRun = 16;
  const UniqueFd uffd = TRY(create_userfaultfd());
  const ByteCount size = bytes_of({pages / kRun * kRun});
  const Mapping memory = TRY(Mapping::anonymous(size));
  TRY(register_missing(uffd, memory.address(), size));
  const std::vector<std::byte> from(kRun * kPageBytes, std::byte{1});
  const Clock::time_point start = Clock::now();
  for (ByteCount at{0}; at < size; at += {from.size()}) {
    const FillResult copied = copy_pages(uffd, memory.address() + at, from, Waiters::kLeave);
    if (copied.outcome != FillOutcome::kFilled) return fail(ErrorCode::kIo, "UFFDIO_COPY failed");
  }
  return us_since(start) / static_cast<double>(pages / kRun * kRun);
}

}  // namespace thaw::bench
