#include "tests/support/finished_job.h"

#include <algorithm>
#include <thread>

#include <gtest/gtest.h>

#include "tests/support/programs.h"
#include "tests/support/test_support.h"

namespace thaw::test {

Result<std::optional<message::JobReport>> run_job(PageClient& client, message::JobKind kind) {
  const auto started = client.start_job({.kind = kind, .dry_run = false, .target = {}});
  if (code_of(started) == ErrorCode::kBusy) return std::optional<message::JobReport>();
  message::JobReport report = TRY(started);
  const Deadline deadline = Deadline::after(kPatience);
  while (report.state == message::JobState::kRunning) {
    if (deadline.passed()) return fail(ErrorCode::kTimeout, "a job does not end");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    // Another client's may have followed it already.
    auto now = TRY(if_found(client.job(report.number)));
    if (!now) return std::optional<message::JobReport>();
    report = *std::move(now);
  }
  if (report.state == message::JobState::kDone) return report;
  std::string text = report.error.text;
  for (const std::string& finding : report.findings) text += "; " + finding;
  return fail(report.error.code, "a job: {}", text);
}

Result<message::JobReport> finish_job(PageClient& client, message::JobKind kind) {
  const Deadline deadline = Deadline::after(kPatience);
  while (!deadline.passed()) {
    if (auto report = TRY(run_job(client, kind))) return *std::move(report);
  }
  return fail(ErrorCode::kTimeout, "no turn for a job");
}

std::uint64_t counter_of(const message::JobReport& report, const std::string& name) {
  const auto found = std::ranges::find(report.counters, name, &message::JobCounter::name);
  EXPECT_NE(found, report.counters.end()) << name;
  return found == report.counters.end() ? 0 : found->value;
}

}  // namespace thaw::test
