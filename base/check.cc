#include "base/check.h"

#include <array>
#include <cstdio>
#include <cstdlib>

#include "base/log.h"

namespace thaw {

void check_failed(const char* condition, const char* file, int line) noexcept {
  std::array<char, 512> text{};
  std::snprintf(text.data(), text.size(), "%s:%d: broken invariant: %s", file, line, condition);
  log_last_words(text.data());
  std::abort();
}

}  // namespace thaw
