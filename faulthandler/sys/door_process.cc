#include "faulthandler/sys/door_process.h"

#include <csignal>
#include <thread>
#include <utility>

#include <unistd.h>

#include "base/error.h"
#include "base/event_fd.h"
#include "base/log.h"
#include "base/socket.h"
#include "faulthandler/limits.h"
#include "faulthandler/served_door.h"
#include "faulthandler/sys/epoll_loop.h"

namespace thaw {

namespace {

Result<void> serve_door(KeepMessage order) {
  const auto loop = TRY(create_epoll_loop());
  UniqueFd self = TRY(own_pidfd());
  bool ended = false;
  ServedDoor door(*loop, std::move(order), [&ended] { ended = true; });
  KeepMessage open{.kind = KeepMessage::Kind::kDoorOpen};
  open.descriptors[KeptRole::kPidfd] = std::move(self);
  door.send(std::move(open));
  loop->run({.before = [] {},
             .after =
                 [&] {
                   if (ended && door.finished()) loop->stop();
                 }});
  return {};
}

/// Once this process is the last to have them: its end closes them.
void close_all(const KeptSession& kept) {
  const UniqueFd& signal = kept[KeptRole::kSignal];
  while (signal.valid() && !wait_until_readable(signal, Deadline::after(limits::kErrandLook))) {
  }
}

Result<void> carry_out(KeepMessage order, const std::function<Result<void>()>& begin_door) {
  TRY(begin_door());
  if (order.kind == KeepMessage::Kind::kOpenDoor) return serve_door(std::move(order));
  close_all(order.descriptors);
  return {};
}

}  // namespace

Result<void> open_ordered_doors(UniqueFd orders, const std::function<Result<void>()>& begin_door) {
  // Signals that end the service are for the supervisor: VMMs may depend on a door until it has
  // answered. The kernel reaps doors that have ended.
  static_cast<void>(::setsid());
  for (const int number : {SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGCHLD}) {
    std::signal(number, SIG_IGN);
  }
  while (true) {
    if (!wait_until_readable(orders, Deadline::after(limits::kErrandLook))) continue;
    auto order = receive_message(orders);
    if (!order && order.error().code() == ErrorCode::kUnavailable) return {};
    if (!order) {
      log_error("an order for a door: {}", order.error().message());
      continue;
    }
    if (!*order) continue;
    pid_t copy = ::fork();
    while (copy < 0 && (*order)->kind == KeepMessage::Kind::kCloseAll) {
      // Closing them here would have all doors wait.
      std::this_thread::sleep_for(limits::kRestartMost);
      copy = ::fork();
    }
    if (copy < 0) {
      log_error("a door for session {}: {}", (*order)->session,
                fail_errno("fork").error().message());
    }
    if (copy != 0) continue;
    orders.reset();
    const auto done = carry_out(**std::move(order), begin_door);
    if (!done) log_error("a door: {}", done.error().message());
    ::_exit(done ? 0 : 1);
  }
}

}  // namespace thaw
