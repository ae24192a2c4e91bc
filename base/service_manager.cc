#include "base/service_manager.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/log.h"
#include "base/socket.h"

namespace thaw {

namespace {

/// As much of $WATCHDOG_USEC counts.
constexpr std::chrono::microseconds kMostPatience = std::chrono::hours(24);

std::optional<std::int64_t> number_of_variable(const char* variable) {
  const char* const value = std::getenv(variable);
  if (value == nullptr) return std::nullopt;
  const std::string_view text(value);
  std::int64_t number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) return std::nullopt;
  return number;
}

/// Half of what the service manager waits, if it waits for this process and not for another one.
std::optional<Nanoseconds> interval_wanted() {
  const bool of_another =
      std::getenv("WATCHDOG_PID") != nullptr && number_of_variable("WATCHDOG_PID") != ::getpid();
  const auto patience = number_of_variable("WATCHDOG_USEC");
  if (of_another || !patience || *patience <= 0) return std::nullopt;
  return std::chrono::microseconds(std::min(*patience, kMostPatience.count())) / 2;
}

}  // namespace

ServiceManager::ServiceManager() : patience_(limits::kNotify) {
  const char* const path = std::getenv("NOTIFY_SOCKET");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path == nullptr || *path == '\0' || std::strlen(path) > limits::kMaxSocketPath) return;
  std::memcpy(address.sun_path, path, std::strlen(path));
  if (*path == '@') address.sun_path[0] = '\0';
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + std::strlen(path) +
                                             (*path == '@' ? 0 : 1));
  // SAFETY: sockaddr_un exists to be passed as sockaddr.
  const auto* const to = reinterpret_cast<const sockaddr*>(&address);
  if (!socket.valid() || ::connect(socket.get(), to, length) != 0) {
    log_warning("the service manager cannot be reached at {}", path);
    return;
  }
  socket_ = std::move(socket);
  alive_interval_ = interval_wanted();
}

void ServiceManager::tell(const std::string& text, const UniqueFd* descriptor) {
  if (!socket_.valid()) return;
  std::vector<int> descriptors;
  if (descriptor != nullptr) descriptors.push_back(descriptor->get());
  const auto told =
      send_with_descriptors(socket_, as_bytes(text), descriptors, Deadline::after(patience_));
  // One that does not read is not waited for each time.
  patience_ = told ? Nanoseconds(limits::kNotify) : Nanoseconds(0);
  if (!told) log_error("the service manager is not told: {}", told.error().message());
}

void ServiceManager::ready() { tell("READY=1", nullptr); }

void ServiceManager::stopping() { tell("STOPPING=1", nullptr); }

void ServiceManager::alive() { tell("WATCHDOG=1", nullptr); }

void ServiceManager::keep(const std::string& name, const UniqueFd& descriptor) {
  // It would drop what hangs up, such as the pidfd of a process that has exited.
  tell("FDSTORE=1\nFDPOLL=0\nFDNAME=" + name, &descriptor);
}

void ServiceManager::forget(const std::string& name) {
  tell("FDSTOREREMOVE=1\nFDNAME=" + name, nullptr);
}

}  // namespace thaw
