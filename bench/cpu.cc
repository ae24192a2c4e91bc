#include "bench/cpu.h"

#include <ctime>
#include <fstream>
#include <string>

#include <sys/resource.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cpu.h"

namespace thaw::bench {

namespace {

double microseconds(const timespec& time) {
  return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_nsec) / 1e3;
}

double microseconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_usec);
}

}  // namespace

Result<void> pin_this_thread(unsigned cpu) {
  if (cpu >= kMaxCpus) return fail(ErrorCode::kInvalidArgument, "there is no CPU {}", cpu);
  return set_allowed_cpus(0, only_cpu(static_cast<int>(cpu)));
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

double own_cpu_us() {
  double us = 0;
  for (const auto whose : {RUSAGE_SELF, RUSAGE_CHILDREN}) {
    rusage usage{};
    CHECK(::getrusage(whose, &usage) == 0);
    us += microseconds(usage.ru_utime) + microseconds(usage.ru_stime);
  }
  return us;
}

MachineCpu machine_cpu() {
  // "cpu user nice system idle iowait irq softirq steal ...", in ticks.
  std::ifstream file("/proc/stat");
  std::string name;
  double user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0;
  file >> name >> user >> nice >> system >> idle >> iowait >> irq >> softirq >> steal;
  const double tick_us = 1e6 / static_cast<double>(::sysconf(_SC_CLK_TCK));
  return {.busy_us = (user + nice + system + irq + softirq) * tick_us,
          .stolen_us = steal * tick_us};
}

}  // namespace thaw::bench
