#include "cli/progress.h"

#include <algorithm>
#include <cstdio>

#include "base/file.h"
#include "base/output.h"
#include "base/printable.h"
#include "cli/output.h"

namespace thaw {

namespace {
constexpr std::size_t kBarWidth = 30;
constexpr std::chrono::milliseconds kRedraw{100};
constexpr int kStderr = 2;
}  // namespace

Progress::Progress(std::string what, ByteCount total)
    : what_(printable(what)), total_(total), shown_(is_terminal(kStderr)) {}

Progress::~Progress() {
  if (shown_ && drawn_ != Clock::time_point{}) print_problem("\n");
}

void Progress::update(ByteCount done) {
  const auto now = Clock::now();
  if (!shown_ || (done < total_ && now - drawn_ < kRedraw)) return;
  drawn_ = now;
  const double part =
      total_.value == 0 ? 1.0 : static_cast<double>(done.value) / static_cast<double>(total_.value);
  const double seconds = std::max(std::chrono::duration<double>(now - started_).count(), 1e-3);
  const double rate = static_cast<double>(done.value) / seconds;
  const double left = rate > 0 ? static_cast<double>((total_ - done).value) / rate : 0;
  const auto filled = static_cast<std::size_t>(part * kBarWidth);
  print_err("\r{} [{}{}] {:3.0f} %  {}/s  {:.0f} s left ", what_, std::string(filled, '#'),
            std::string(kBarWidth - filled, '.'), part * 100,
            human_bytes(static_cast<std::uint64_t>(rate)), left);
  std::fflush(stderr);
}

}  // namespace thaw
