#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "bench/fleet.h"
#include "vmm-client/restore_profile.h"

namespace thaw::bench {

/// A captured VM of thaw-microvm, which is restored again and again. One thread.
class MicroVmRuns {
 public:
  /// Captures one and pushes it. `base` is a path of its own, to which the names of its files are
  /// appended. kUnsupported without KVM.
  static Result<MicroVmRuns> start(test::PageServer& server, const std::string& base);

  /// Milliseconds from the start of a restore to the guest's first output, all of it in the process
  /// of the VM: mapping memory, making VM and vCPUs, loading the state, and what it then touches.
  Result<double> from_file() { return restore({"--memory", base_ + ".memory"}); }
  Result<double> shared(Handler& handler);

  /// Microseconds until a VM is ready to run, its memory handed over, from a shell that was there
  /// before or not. In this process: the handler's sessions must be prepared to wait, not to kill.
  Result<double> pooled(Handler& handler, ShellOrigin origin);

 private:
  explicit MicroVmRuns(std::string base) : base_(std::move(base)) {}
  Result<double> restore(const std::vector<std::string>& source);
  /// Runs thaw-microvm to its end, its reports in a file.
  Result<void> run(const std::vector<std::string>& arguments) const;

  std::string base_;
};

}  // namespace thaw::bench
