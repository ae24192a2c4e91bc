#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "format/control.h"

namespace thaw {

struct RecordOptions {
  std::string control;       // socket of the fault handler
  control::Prepare prepare;  // what every run asks for; its paths are those of the run
  bool with_state = false;   // whether the snapshot has a state file
  unsigned runs = 1;
  std::vector<std::string> command;
};

/// What came of one run.
struct RecordedRun {
  unsigned number = 0;  // from 1
  std::uint64_t pages = 0;
  double seconds = 0;   // from the command's start until it was known how the recording went
  std::string problem;  // why nothing was stored; empty: it was

  bool stored() const { return problem.empty(); }
};

/// Restores a snapshot several times, each time with a session that records and with a command
/// that is to start a VMM on it. The command gets THAW_SOCKET, THAW_STATE (if there is a state
/// file) and THAW_RUN. Once the recording is stored, or cannot be any more, the command's process
/// group and the VM are ended. Calls `on_run` after each run.
///
/// A run that was not recorded does not end the others; an error that all of them would meet does.
/// kStopped once `stop_signals`, which comes from take_signals(), has one. Every wait has a
/// deadline.
Result<std::vector<RecordedRun>> record_runs(const RecordOptions& options,
                                             const UniqueFd& stop_signals,
                                             const std::function<void(const RecordedRun&)>& on_run);

}  // namespace thaw
