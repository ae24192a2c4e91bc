#include "base/queue_time.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace thaw {

namespace {

/// What the calling thread has waited in queues so far: the second number of its schedstat. Zero
/// where that cannot be read.
Nanoseconds queue_time() {
  const UniqueFd file(::open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return Nanoseconds(0);
  std::array<char, 128> text{};
  const ssize_t size = ::read(file.get(), text.data(), text.size());
  const char* const end = text.data() + std::max<ssize_t>(size, 0);
  const char* const second = std::find(std::as_const(text).data(), end, ' ');
  std::int64_t queued = 0;
  if (second != end) std::from_chars(second + 1, end, queued);
  return Nanoseconds(queued);
}

}  // namespace

Nanoseconds without_queue_time(Nanoseconds took) {
  thread_local Nanoseconds before{0};
  const Nanoseconds now = queue_time();
  return std::max(Nanoseconds(0), took - (now - std::exchange(before, now)));
}

}  // namespace thaw
