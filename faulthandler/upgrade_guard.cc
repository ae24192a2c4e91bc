#include "faulthandler/upgrade_guard.h"

#include <array>
#include <optional>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/event_fd.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/process.h"
#include "base/socket.h"
#include "faulthandler/handler_settings.h"
#include "faulthandler/limits.h"

namespace thaw {

namespace {

constexpr std::chrono::milliseconds kLook{20};  // whether the supervisor has ended
// The pidfds of those that must be dead before the guard goes on.
constexpr const char* kSupervisorName = "supervisor";
constexpr const char* kHandlerName = "handler";

/// Why the supervisor is not to go on; nothing: a handler of it serves.
std::optional<std::string> await_end(const UniqueFd& connection, const UniqueFd& supervisor) {
  const Deadline deadline = Deadline::after(limits::kGuard);
  while (!deadline.passed()) {
    if (wait_until_readable(connection, Deadline::after(kLook))) {
      std::array<std::byte, 1> word{};
      const auto received = receive_with_descriptors(connection, word);
      if (received && *received && (*received)->bytes == 1) return std::nullopt;
      return "the new program ended before it served";
    }
    if (wait_for_exit(supervisor, Deadline::after(Nanoseconds(0)))) {
      return "the new program ended before it served";
    }
  }
  return fmt::format("the new program did not serve within {} s", limits::kGuard.count());
}

}  // namespace

Result<UniqueFd> start_guard(std::vector<NamedDescriptor>& passed, const UniqueFd& settings,
                             const SessionKeep::Upgrades& upgrades, const UniqueFd& handler,
                             Clock::time_point paused) {
  MessagePair ends = TRY(create_message_pair());
  UniqueFd supervisor = TRY(own_pidfd());
  UniqueFd killed = TRY(duplicate(handler));
  const std::size_t sessions = passed.size();
  TRY(add_inheritance(passed, {.settings = TRY(duplicate(settings)),
                               .guard = std::move(ends.theirs),
                               .upgrades = upgrades,
                               .unserved_since = paused}));
  passed.push_back({kSupervisorName, std::move(supervisor)});
  passed.push_back({kHandlerName, std::move(killed)});
  const auto started = start_copy_with({kRunningProgram, kGuardArgument}, passed);
  passed.erase(passed.begin() + static_cast<std::ptrdiff_t>(sessions), passed.end());
  TRY(started);
  return std::move(ends.ours);
}

void dismiss_guard(const UniqueFd& guard) {
  const std::array<std::byte, 1> word{};
  const auto sent = send_with_descriptors(guard, word, {}, Deadline::after(Nanoseconds(0)));
  if (!sent) log_error("the guard of the upgrade is not told: {}", sent.error().message());
}

Result<int> guard_upgrade() {
  auto passed = TRY(take_passed_descriptors());
  Inheritance before = take_inheritance(passed);
  const UniqueFd supervisor = take_passed(passed, kSupervisorName);
  const UniqueFd handler = take_passed(passed, kHandlerName);
  if (!before.guard.valid() || !supervisor.valid() || !handler.valid()) {
    return fail(ErrorCode::kInvalidArgument, "there is nothing to guard");
  }
  const HandlerSettings settings = TRY(read_settings(before.settings));
  const auto failure = await_end(before.guard, supervisor);
  if (!failure) return 0;
  log_error("{}: the program before goes on", *failure);
  // A record is opened by one process at a time.
  for (const UniqueFd* const process : {&supervisor, &handler}) {
    TRY(kill_process(*process));
    TRY(wait_for_exit(*process, Deadline::after(limits::kKilledExit)));
  }
  const SessionKeep::Upgrades upgrades{before.upgrades.settled + 1, "not upgraded: " + *failure};
  TRY(add_inheritance(passed, {.settings = std::move(before.settings),
                               .upgrades = upgrades,
                               .unserved_since = before.unserved_since}));
  TRY(become_with(kRunningProgram, settings.command, std::move(passed)));
  return 1;
}

}  // namespace thaw
