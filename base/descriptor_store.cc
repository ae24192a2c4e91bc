#include "base/descriptor_store.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/process.h"

namespace thaw {

namespace {

std::optional<int> number_in(const char* variable) {
  const char* const text = std::getenv(variable);
  if (text == nullptr) return std::nullopt;
  int number = -1;
  const char* const end = text + std::strlen(text);
  const auto parsed = std::from_chars(text, end, number);
  if (parsed.ec != std::errc() || parsed.ptr != end || number < 0) return std::nullopt;
  return number;
}

}  // namespace

Result<std::vector<NamedDescriptor>> take_passed_descriptors() {
  std::vector<NamedDescriptor> passed;
  const auto process = number_in("LISTEN_PID");
  const auto count = number_in("LISTEN_FDS");
  const char* const text = std::getenv("LISTEN_FDNAMES");
  std::string_view names = text == nullptr ? "" : text;
  if (process != ::getpid() || !count) return passed;
  for (int i = 0; i < *count; ++i) {
    const std::size_t end = std::min(names.find(':'), names.size());
    if (::fcntl(kFirstPassed + i, F_SETFD, FD_CLOEXEC) != 0) {
      return fail(ErrorCode::kMalformed, "LISTEN_FDS is {}, but there is no descriptor {}", *count,
                  kFirstPassed + i);
    }
    passed.push_back({std::string(names.substr(0, end)), UniqueFd(kFirstPassed + i)});
    names.remove_prefix(std::min(end + 1, names.size()));
  }
  for (const char* const variable : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) {
    ::unsetenv(variable);
  }
  return passed;
}

Result<void> become_with(const std::vector<std::string>& command,
                         std::vector<NamedDescriptor> descriptors) {
  CHECK(!command.empty());
  return become_with(command.front(), command, std::move(descriptors));
}

Result<void> become_with(const std::string& file, const std::vector<std::string>& command,
                         std::vector<NamedDescriptor> descriptors) {
  std::string names;
  for (std::size_t i = 0; i < descriptors.size(); ++i) {
    UniqueFd& from = descriptors[i].descriptor;
    const int number = kFirstPassed + static_cast<int>(i);
    names += (names.empty() ? "" : ":") + descriptors[i].name;
    // One that comes later and has this number makes way. No more than one spare descriptor is
    // needed.
    const auto holder = std::ranges::find_if(
        descriptors, [&](const NamedDescriptor& each) { return each.descriptor.get() == number; });
    if (holder != descriptors.end() && &holder->descriptor != &from) {
      UniqueFd moved(::fcntl(number, F_DUPFD_CLOEXEC, kFirstPassed));
      if (!moved.valid()) return fail_errno("duplicate a descriptor");
      holder->descriptor = std::move(moved);
    }
    if (from.get() == number) {
      if (::fcntl(number, F_SETFD, 0) != 0) return fail_errno("F_SETFD");
      continue;
    }
    // What had the number is closed with that: this program is over.
    if (::dup2(from.get(), number) != number) return fail_errno("dup2");
    from = UniqueFd(number);
  }
  for (NamedDescriptor& each : descriptors) static_cast<void>(each.descriptor.release());
  ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
  ::setenv("LISTEN_FDS", std::to_string(descriptors.size()).c_str(), 1);
  ::setenv("LISTEN_FDNAMES", names.c_str(), 1);
  return become(file, command);
}

Result<void> start_copy_with(const std::vector<std::string>& command,
                             std::vector<NamedDescriptor>& descriptors) {
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("fork");
  if (child == 0) {
    // A second fork, so that the copy is no child that would have to be reaped.
    const pid_t copy = ::fork();
    if (copy != 0) ::_exit(copy < 0 ? 1 : 0);
    static_cast<void>(become_with(kRunningProgram, command, std::move(descriptors)));
    ::_exit(1);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (status != 0) return fail(ErrorCode::kIo, "the copy of this process could not be forked");
  return {};
}

}  // namespace thaw
