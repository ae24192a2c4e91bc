#include "bench/cpu.h"

#include <ctime>

#include <sched.h>

#include "base/check.h"

namespace thaw::bench {

namespace {

double microseconds(const timespec& time) {
  return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_nsec) / 1e3;
}

}  // namespace

Result<void> pin_this_thread(unsigned cpu) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(cpu, &cpus);
  if (::sched_setaffinity(0, sizeof(cpus), &cpus) != 0) {
    return fail_errno(fmt::format("run on CPU {}", cpu));
  }
  return {};
}

double thread_cpu_us() {
  timespec time{};
  CHECK(::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) == 0);
  return microseconds(time);
}

Result<double> process_cpu_us(pid_t pid) {
  clockid_t clock = 0;
  if (const int error_number = ::clock_getcpuclockid(pid, &clock); error_number != 0) {
    return fail_errno(fmt::format("CPU clock of process {}", pid), error_number);
  }
  timespec time{};
  if (::clock_gettime(clock, &time) != 0) {
    return fail_errno(fmt::format("CPU time of process {}", pid));
  }
  return microseconds(time);
}

}  // namespace thaw::bench
