#include "faulthandler/placement.h"

#include <algorithm>
#include <charconv>
#include <chrono>

#include "base/log.h"

namespace thaw {

namespace {

constexpr std::chrono::milliseconds kLookInterval{2};
constexpr std::chrono::milliseconds kRestAfter{100};
/// The VMM's threads are examined in the first looks, then now and then: that is what costs.
constexpr std::uint64_t kFirstLooks = 4;
constexpr std::uint64_t kLooksPerExamination = 10;
/// A wake-up of another CPU takes about this long; spinning for longer cannot pay.
constexpr std::chrono::microseconds kAutomaticSpin{50};
constexpr std::int64_t kMaxSpinMicroseconds = 100'000;
/// Threads of one VMM that are looked at. One with more is not followed.
constexpr std::size_t kMaxThreads = 64;

std::optional<std::int64_t> parse_number(const std::string& text, std::int64_t most) {
  std::int64_t number = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number < 0 || number > most ? std::nullopt : std::optional(number);
}

}  // namespace

Result<PlacementOptions> parse_placement(const std::string& text) {
  using Mode = PlacementOptions::Mode;
  if (text == "follow") return PlacementOptions{Mode::kFollow, 0, {}};
  if (text == "free") return PlacementOptions{Mode::kFree, 0, {}};
  const auto cpu = parse_number(text, kMaxCpus - 1);
  if (!cpu) {
    return fail(ErrorCode::kInvalidArgument, "\"{}\" is not follow, free or a CPU's number", text);
  }
  return PlacementOptions{Mode::kCpu, static_cast<int>(*cpu), {}};
}

Result<std::optional<Nanoseconds>> parse_spin(const std::string& text) {
  if (text == "auto") return std::optional<Nanoseconds>();
  const auto spin = parse_number(text, kMaxSpinMicroseconds);
  if (!spin) {
    return fail(ErrorCode::kInvalidArgument, "\"{}\" is not auto or 0 to {} microseconds", text,
                kMaxSpinMicroseconds);
  }
  return std::optional<Nanoseconds>(std::chrono::microseconds(*spin));
}

Placement::Placement(const PlacementOptions& options)
    : options_(options),
      loop_(this_thread_id()),
      spin_(options.spin.value_or(Nanoseconds(0))),
      place_(loop_),
      starvation_(loop_) {
  if (options_.mode == PlacementOptions::Mode::kCpu) {
    if (const auto placed = set_allowed_cpus(0, only_cpu(options_.cpu)); !placed) {
      log_warning("not placed on CPU {}: {}", options_.cpu, placed.error().message());
    }
  }
  following_ = options_.mode == PlacementOptions::Mode::kFollow && place_.has_choice() &&
               may_leave_background();
  const bool spins =
      !options_.spin && place_.has_choice() && options_.mode != PlacementOptions::Mode::kCpu;
  policy_ = PlacementPolicy(following_ ? PlacementPolicy::May::kFollow
                                       : PlacementPolicy::May::kSpinAlone);
  if (following_ || spins) watcher_ = std::jthread([this] { watch(); });
}

Placement::~Placement() {
  stopping_ = true;
  wake();
}

void Placement::on_restore() {
  restored_ = true;
  if (resting_) wake();
}

void Placement::wake() {
  resting_ = false;
  resting_.notify_one();
}

void Placement::watch() {
  take_precedence();  // it would wait beside the threads that a starving loop waits for
  while (!stopping_) {
    resting_.wait(true);
    if (!stopping_) watch_activity();
  }
  if (following_) place_.let_go();
}

void Placement::watch_activity() {
  // What happened before is not this activity's.
  looks_ = 0;
  look();
  Clock::time_point last_fault = Clock::now();
  while (!stopping_) {
    std::this_thread::sleep_for(kLookInterval);
    if (restored_.exchange(false)) policy_.on_restore(Clock::now());
    const PlacementPolicy::Look seen = look();
    if (seen.faults > 0) last_fault = seen.now;
    if (seen.now - last_fault > kRestAfter) break;
    apply(policy_.decide(seen));
  }
  apply({.cpu = std::nullopt, .spin = false});
  resting_ = !stopping_;
}

void Placement::after_turn() {
  const Nanoseconds turn = Clock::now() - turn_start_.load(std::memory_order_relaxed);
  turn_start_.store({}, std::memory_order_relaxed);
  in_turns_.store(in_turns_.load(std::memory_order_relaxed) + turn, std::memory_order_relaxed);
}

Nanoseconds Placement::queued_for_turns() {
  const auto times = thread_times(loop_);
  if (!times) return Nanoseconds(0);
  Nanoseconds in_turns = in_turns_.load(std::memory_order_relaxed);
  const Clock::time_point start = turn_start_.load(std::memory_order_relaxed);
  if (start != Clock::time_point{}) in_turns += Clock::now() - start;
  const Nanoseconds queued = times->queued - times_seen_.queued;
  const Nanoseconds preempted =
      (in_turns - in_turns_seen_) - (times->running - times_seen_.running);
  times_seen_ = *times;
  in_turns_seen_ = in_turns;
  return std::max(queued - std::max(preempted, Nanoseconds(0)), Nanoseconds(0));
}

PlacementPolicy::Look Placement::look() {
  const std::uint64_t faults = faults_.load(std::memory_order_relaxed);
  const pid_t vmm = vmm_.load(std::memory_order_relaxed);
  PlacementPolicy::Look look{.now = Clock::now(),
                             .faults = faults - faults_seen_,
                             .other_vm = vmm != vmm_seen_,
                             .examined = false,
                             .hot_cpu = std::nullopt,
                             .queued = queued_for_turns(),
                             .starves = starvation_.look() == StarvationWatch::Seen::kStarved};
  faults_seen_ = faults;
  if (look.other_vm) sleeps_seen_.clear();
  vmm_seen_ = vmm;
  ++looks_;
  if (look.faults == 0) return look;
  if (looks_ <= kFirstLooks || looks_ % kLooksPerExamination == 0) {
    examine(vmm, look);
  } else if (const auto activity = thread_activity(vmm, hot_thread_); place_.cpu() && activity) {
    look.examined = true;
    look.hot_cpu = activity->cpu;
  }
  return look;
}

void Placement::examine(pid_t vmm, PlacementPolicy::Look& look) {
  std::map<pid_t, std::uint64_t> seen;
  std::map<int, std::uint64_t> by_cpu;
  std::uint64_t all = 0;
  std::uint64_t most = 0;
  for (const pid_t thread : threads_of(vmm, kMaxThreads)) {
    const auto activity = thread_activity(vmm, thread);
    if (!activity) continue;
    seen[thread] = activity->sleeps;
    const auto before = sleeps_seen_.find(thread);
    if (before == sleeps_seen_.end()) continue;
    const std::uint64_t sleeps = activity->sleeps - before->second;
    by_cpu[activity->cpu] += sleeps;
    all += sleeps;
    if (sleeps > most) {
      most = sleeps;
      hot_thread_ = thread;
    }
  }
  sleeps_seen_ = std::move(seen);
  const auto hot = std::ranges::max_element(by_cpu, {}, [](const auto& cpu) { return cpu.second; });
  look.examined = all > 0;  // else there is nothing to compare with yet
  if (look.examined && hot->second * 5 >= all * 4) look.hot_cpu = hot->first;
}

void Placement::apply(const PlacementPolicy::Decision& decision) {
  const bool bulk_work = bulk_work_.load(std::memory_order_relaxed);
  if (!options_.spin) {
    spin_.store(decision.spin && !bulk_work ? kAutomaticSpin : Nanoseconds(0),
                std::memory_order_relaxed);
  }
  if (!following_) return;
  if (!decision.cpu || bulk_work) {
    if (place_.cpu()) place_.let_go();
    return;
  }
  if (decision.cpu == place_.cpu()) return;
  const bool goes =
      place_.allows(*decision.cpu) && place_.move(*decision.cpu, SchedulingClass::kBackground);
  if (!goes) place_.let_go();
}

}  // namespace thaw
