#include "base/blocked_call.h"

#include <charconv>
#include <limits>
#include <string>
#include <system_error>

#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"

namespace thaw {

namespace {

constexpr std::size_t kMaxCallBytes = 1024;

}  // namespace

// "number 0xargument ... 0xsp 0xpc", or "running", or "-1 0xsp 0xpc" outside system calls.
std::optional<int> descriptor_in_call(pid_t process) {
  const auto call = read_text_file(fmt::format("/proc/{}/syscall", process), kMaxCallBytes);
  if (!call || call->empty() || call->front() < '0' || call->front() > '9') return std::nullopt;
  const std::size_t argument = call->find(" 0x");
  if (argument == std::string::npos) return std::nullopt;
  std::uint64_t value = 0;
  const char* const end = call->data() + call->size();
  const auto read = std::from_chars(call->data() + argument + 3, end, value, 16);
  if (read.ec != std::errc() || value > std::numeric_limits<int>::max()) return std::nullopt;
  return static_cast<int>(value);
}

bool is_same_open_file(const UniqueFd& ours, pid_t process, int descriptor) {
  return ::syscall(SYS_kcmp, ::getpid(), process, KCMP_FILE, ours.get(), descriptor) == 0;
}

}  // namespace thaw
