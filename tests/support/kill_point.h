#pragma once

#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include <unistd.h>

#include "base/check.h"

namespace thaw::test {

/// The point where a process is to die: KIND.OPERATION:N[:half|:after] is SIGKILL before, in the
/// midst of or after the N-th such operation on files of a kind; the kind "file" stands for all.
/// Locked by whoever calls.
class KillPoint {
 public:
  enum class Phase : std::uint8_t { kBefore, kHalf, kAfter };

  explicit KillPoint(std::string_view text) {
    if (text.empty()) return;
    const auto colon = text.find(':');
    operation_ = text.substr(0, colon);
    text.remove_prefix(colon + 1);
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), left_);
    CHECK(error == std::errc() && left_ > 0);
    const std::string_view phase(end, text.data() + text.size());
    if (phase == ":half") phase_ = Phase::kHalf;
    if (phase == ":after") phase_ = Phase::kAfter;
  }

  /// Counts an operation. Before it, this is the end; else returns what is to be left of it.
  std::optional<Phase> arrive(const std::string& kind, const char* operation) {
    const bool meant = operation_ == kind + "." + operation ||
                       (operation_.starts_with("file.") && operation_.substr(5) == operation);
    if (!meant || left_ == 0 || --left_ > 0) return std::nullopt;
    if (phase_ == Phase::kBefore) die();
    return phase_;
  }
  [[noreturn]] static void die() {
    ::kill(::getpid(), SIGKILL);
    std::abort();
  }

 private:
  std::string operation_;
  unsigned left_ = 0;
  Phase phase_ = Phase::kBefore;
};

}  // namespace thaw::test
