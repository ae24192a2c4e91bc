#include "vmm-client/microvm/guest_progress.h"

#include <algorithm>

#include "base/check.h"

namespace thaw {

void GuestProgress::begin(std::uint64_t serial_bytes, const std::vector<SerialCursor>& cursors) {
  const std::lock_guard lock(mutex_);
  serial_bytes_ = serial_bytes;
  outputs_.clear();
  for (const SerialCursor& cursor : cursors) outputs_.push_back({cursor, cursor.column > 0});
  first_output_.reset();
}

void GuestProgress::show_at_most(std::uint64_t lines) {
  const std::lock_guard lock(mutex_);
  most_shown_ = lines;
}

bool GuestProgress::count(Output& output, std::byte byte) const {
  const bool shown = output.cursor.lines < most_shown_ || output.in_parts;
  ++output.cursor.column;
  if (byte == std::byte{'\n'}) output = {.cursor = {.lines = output.cursor.lines + 1}};
  return shown;
}

void GuestProgress::write(std::size_t vcpu, ByteSpan bytes) {
  std::size_t shown = 0;
  {
    const std::lock_guard lock(mutex_);
    CHECK(vcpu < outputs_.size());
    if (!first_output_) first_output_ = Clock::now();
    serial_bytes_ += bytes.size();
    // Once a line is not shown, no later one is.
    for (const std::byte byte : bytes) shown += count(outputs_[vcpu], byte) ? 1 : 0;
  }
  if (shown > 0) sink_(bytes.first(shown));
  changed_.notify_all();
}

void GuestProgress::exit(std::uint32_t code) {
  {
    const std::lock_guard lock(mutex_);
    if (!exit_code_) exit_code_ = code;
  }
  changed_.notify_all();
}

void GuestProgress::fail_with(Error error) {
  {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::move(error);
  }
  changed_.notify_all();
}

Result<GuestProgress::Event> GuestProgress::wait_until(const std::function<bool()>& reached) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return failure_ || exit_code_ || reached(); });
  if (failure_) return std::unexpected(*failure_);
  return reached() ? Event::kReached : Event::kExited;
}

Result<GuestProgress::Event> GuestProgress::wait_for_rounds(std::uint64_t rounds) {
  return wait_until([&] {
    return std::ranges::all_of(outputs_,
                               [&](const Output& output) { return output.cursor.lines >= rounds; });
  });
}

Result<GuestProgress::Event> GuestProgress::wait_for_output() {
  return wait_until([&] { return first_output_.has_value(); });
}

std::uint64_t GuestProgress::serial_bytes() const {
  const std::lock_guard lock(mutex_);
  return serial_bytes_;
}

SerialCursor GuestProgress::cursor(std::size_t vcpu) const {
  const std::lock_guard lock(mutex_);
  CHECK(vcpu < outputs_.size());
  return outputs_[vcpu].cursor;
}

std::optional<std::uint32_t> GuestProgress::exit_code() const {
  const std::lock_guard lock(mutex_);
  return exit_code_;
}

std::optional<Clock::time_point> GuestProgress::first_output() const {
  const std::lock_guard lock(mutex_);
  return first_output_;
}

}  // namespace thaw
