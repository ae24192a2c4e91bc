#include "base/cpu.h"

#include <cerrno>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/file.h"
#include "base/thread.h"

namespace thaw {

namespace {

constexpr std::size_t kMaxStatBytes = 4096;

std::string task_file(pid_t process, pid_t thread, const char* name) {
  return fmt::format("/proc/{}/task/{}/{}", process, thread, name);
}

/// The number at the start of the n-th word of `line`, from 0.
Result<std::uint64_t> word(std::string_view line, std::size_t n) {
  for (; n > 0; --n) {
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos) return fail(ErrorCode::kMalformed, "too few words");
    line.remove_prefix(space + 1);
  }
  std::uint64_t value = 0;
  if (std::from_chars(line.data(), line.data() + line.size(), value).ec != std::errc()) {
    return fail(ErrorCode::kMalformed, "not a number: {}", line.substr(0, 20));
  }
  return value;
}

/// The fields of a thread's stat from the third on: those before are its id and its name, which is
/// in parentheses and may hold spaces and parentheses.
Result<std::string> stat_fields(pid_t process, pid_t thread) {
  const std::string stat = TRY(read_text_file(task_file(process, thread, "stat"), kMaxStatBytes));
  const std::size_t name_end = stat.rfind(") ");
  if (name_end == std::string::npos) return fail(ErrorCode::kMalformed, "stat without a name");
  return stat.substr(name_end + 2);
}

}  // namespace

pid_t this_thread_id() { return ::gettid(); }

Result<CpuSet> allowed_cpus(pid_t thread) {
  cpu_set_t raw;
  static_assert(CPU_SETSIZE == kMaxCpus);
  if (::sched_getaffinity(thread, sizeof(raw), &raw) != 0) return fail_errno("sched_getaffinity");
  CpuSet cpus;
  for (std::size_t i = 0; i < kMaxCpus; ++i) cpus[i] = CPU_ISSET(i, &raw) != 0;
  return cpus;
}

Result<void> set_allowed_cpus(pid_t thread, const CpuSet& cpus) {
  cpu_set_t raw;
  CPU_ZERO(&raw);
  for (std::size_t i = 0; i < kMaxCpus; ++i) {
    if (cpus[i]) CPU_SET(i, &raw);
  }
  if (::sched_setaffinity(thread, sizeof(raw), &raw) != 0) return fail_errno("sched_setaffinity");
  return {};
}

CpuSet only_cpu(int cpu) {
  CpuSet only;
  only.set(static_cast<std::size_t>(cpu));
  return only;
}

Result<void> set_scheduling_class(pid_t thread, SchedulingClass scheduling) {
  const sched_param none{};
  const int policy = scheduling == SchedulingClass::kBackground ? SCHED_IDLE : SCHED_OTHER;
  if (::sched_setscheduler(thread, policy, &none) != 0) return fail_errno("sched_setscheduler");
  return {};
}

void take_precedence() {
  constexpr int kHighest = -20;
  // Of the calling thread alone, on Linux. Where it is refused, the thread is one like others.
  static_cast<void>(::setpriority(PRIO_PROCESS, 0, kHighest));
}

void give_up_precedence(const CpuSet& cpus) {
  static_cast<void>(set_scheduling_class(0, SchedulingClass::kNormal));
  static_cast<void>(::setpriority(PRIO_PROCESS, 0, 0));
  static_cast<void>(set_allowed_cpus(0, cpus));
}

void take_long_turns() {
  // Longer than an ordinary turn of 3 ms, and no longer than others could bear to wait for one.
  constexpr std::chrono::milliseconds kTurn{10};
  // struct sched_attr of sched_setattr(2), which glibc 2.36 does not declare.
  struct {
    std::uint32_t size, policy;
    std::uint64_t flags;
    std::int32_t nice;
    std::uint32_t priority;
    std::uint64_t runtime, deadline, period;
  } attributes{};
  // Where either is refused, turns stay as long as everybody's.
  if (::syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) != 0) return;
  attributes.policy = SCHED_BATCH;
  attributes.runtime = static_cast<std::uint64_t>(Nanoseconds(kTurn).count());
  static_cast<void>(::syscall(SYS_sched_setattr, 0, &attributes, 0));
}

bool may_leave_background() {
  bool may = false;
  auto trying = start_thread([&may] {
    may = set_scheduling_class(0, SchedulingClass::kBackground).has_value() &&
          set_scheduling_class(0, SchedulingClass::kNormal).has_value();
  });
  if (!trying) return false;
  trying->join();
  return may;
}

ThreadPlace::ThreadPlace(pid_t thread) : thread_(thread) {
  if (auto allowed = allowed_cpus(thread)) allowed_ = *allowed;
}

bool ThreadPlace::move(int cpu, SchedulingClass scheduling) {
  if (!set_allowed_cpus(thread_, only_cpu(cpu))) return false;
  if (!set_scheduling_class(thread_, scheduling)) {
    let_go();
    return false;
  }
  at_ = cpu;
  return true;
}

void ThreadPlace::let_go() {
  // The class first: with it the thread is not at others' mercy any more.
  static_cast<void>(set_scheduling_class(thread_, SchedulingClass::kNormal));
  static_cast<void>(set_allowed_cpus(thread_, allowed_));
  at_.reset();
}

// schedstat: "time_running time_queued switches"

Result<ThreadTimes> thread_times(pid_t thread) {
  const std::string schedstat =
      TRY(read_text_file(task_file(::getpid(), thread, "schedstat"), kMaxStatBytes));
  return ThreadTimes{Nanoseconds(TRY(word(schedstat, 0))), Nanoseconds(TRY(word(schedstat, 1)))};
}

StarvationWatch::Seen StarvationWatch::look() {
  const auto stat = stat_fields(::getpid(), thread_);
  const auto times = thread_times(thread_);
  const bool ready = stat && stat->starts_with('R');
  const bool was_ready = std::exchange(was_ready_, ready);
  if (!times) return Seen::kWaited;  // without a descriptor to read it
  if (times->running != std::exchange(ran_, times->running)) return Seen::kRan;
  return ready && was_ready ? Seen::kStarved : Seen::kWaited;
}

Result<ThreadActivity> thread_activity(pid_t process, pid_t thread) {
  const std::string schedstat =
      TRY(read_text_file(task_file(process, thread, "schedstat"), kMaxStatBytes));
  const std::string fields = TRY(stat_fields(process, thread));
  ThreadActivity activity;
  activity.sleeps = TRY(word(schedstat, 2));
  // `processor` is the 39th field of all.
  activity.cpu = static_cast<int>(TRY(word(fields, 36)));
  return activity;
}

Result<ThreadProgress> thread_progress(pid_t process, pid_t thread) {
  const std::string schedstat =
      TRY(read_text_file(task_file(process, thread, "schedstat"), kMaxStatBytes));
  const std::string fields = TRY(stat_fields(process, thread));
  const ThreadState state = fields.starts_with('R')   ? ThreadState::kReady
                            : fields.starts_with('t') ? ThreadState::kHeld
                                                      : ThreadState::kWaiting;
  return ThreadProgress{state, Nanoseconds(TRY(word(schedstat, 0)))};
}

std::vector<pid_t> threads_of(pid_t process, std::size_t most) {
  std::vector<pid_t> threads;
  std::error_code gone;
  std::filesystem::directory_iterator tasks(fmt::format("/proc/{}/task", process), gone);
  const std::filesystem::directory_iterator end;
  while (!gone && tasks != end && threads.size() < most) {
    const std::string name = tasks->path().filename().string();
    pid_t thread = 0;
    std::from_chars(name.data(), name.data() + name.size(), thread);
    if (thread > 0) threads.push_back(thread);
    tasks.increment(gone);
  }
  return threads;
}

}  // namespace thaw
