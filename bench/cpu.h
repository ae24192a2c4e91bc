#pragma once

#include <sys/types.h>

#include "base/error.h"

namespace thaw::bench {

/// Lets the calling thread run on this CPU only. kInvalidArgument: there is no such CPU for it.
Result<void> pin_this_thread(unsigned cpu);

/// User and system time of the calling thread so far, in microseconds.
double thread_cpu_us();
/// The same of all threads that a process has or had.
Result<double> process_cpu_us(pid_t pid);
/// The same of this process and of the children that it has waited for.
double own_cpu_us();

/// CPU time of the whole machine since it was booted, in microseconds.
struct MachineCpu {
  double busy_us = 0;    // of all processes
  double stolen_us = 0;  // that a hypervisor gave to others while this machine had work
};
MachineCpu machine_cpu();

}  // namespace thaw::bench
