#pragma once

#include <functional>
#include <string>
#include <vector>

#include "pageserver/job.h"

namespace thaw::test {

/// Counts the steps of a job, writes and pauses, and ends it before one of them. Keeps findings.
class SteppedControl final : public Unpaced {
 public:
  Result<void> write(const Work& work) override {
    if (before_write) before_write(writes);
    ++writes;
    if (steps++ == stop_at_step) return fail(ErrorCode::kStopped, "stopped before a write");
    return work();
  }
  Result<void> pace(ByteCount) override {
    if (paces++ == stop_at_pace || steps++ == stop_at_step) {
      return fail(ErrorCode::kStopped, "stopped");
    }
    return {};
  }
  void add_finding(std::string finding) override { findings.push_back(std::move(finding)); }

  std::function<void(int)> before_write;
  std::vector<std::string> findings;
  int writes = 0;
  int paces = 0;
  int steps = 0;
  int stop_at_pace = -1;
  int stop_at_step = -1;
};

}  // namespace thaw::test
