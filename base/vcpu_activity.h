#pragma once

#include <sys/types.h>

namespace thaw {

/// Whether a VMM has let its guest run.
enum class VcpuActivity {
  kHasRun,
  kNotYet,   // it has vCPUs, and all of them wait: the VM was loaded paused
  kUnknown,  // no vCPUs of KVM can be seen in it
};

/// From /proc/PID: the time that it has spent as a guest, and whether a thread of it is in KVM_RUN.
/// That a thread is there says also that a guest runs which sleeps. Reads two files, and where the
/// guest has not run for a tick of the clock one file a thread. Needs the right to trace it.
VcpuActivity vcpu_activity(pid_t pid);

}  // namespace thaw
