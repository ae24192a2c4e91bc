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

/// Whether a thread may leave the background class again, which takes a right that entering it does
/// not. Tried on a thread that ends at once.
bool may_follow() {
  bool may = false;
  std::jthread([&may] {
    may = set_scheduling_class(0, SchedulingClass::kBackground).has_value() &&
          set_scheduling_class(0, SchedulingClass::kNormal).has_value();
  }).join();
  return may;
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
      spin_(options.spin.value_or(Nanoseconds(0)).count()) {
  if (auto allowed = allowed_cpus(0)) allowed_ = *allowed;
  if (options_.mode == PlacementOptions::Mode::kCpu) {
    CpuSet only;
    only.set(static_cast<std::size_t>(options_.cpu));
    if (const auto placed = set_allowed_cpus(0, only); !placed) {
      log_warning("not placed on CPU {}: {}", options_.cpu, placed.error().message());
    }
  }
  following_ =
      options_.mode == PlacementOptions::Mode::kFollow && allowed_.count() > 1 && may_follow();
  const bool spins =
      !options_.spin && allowed_.count() > 1 && options_.mode != PlacementOptions::Mode::kCpu;
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
  while (!stopping_) {
    resting_.wait(true);
    if (!stopping_) watch_activity();
  }
  let_go();
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
    if (seen.faults) last_fault = seen.now;
    if (seen.now - last_fault > kRestAfter) break;
    apply(policy_.decide(seen));
  }
  apply({.cpu = std::nullopt, .spin = false});
  resting_ = !stopping_;
}

PlacementPolicy::Look Placement::look() {
  const std::uint64_t faults = faults_.load(std::memory_order_relaxed);
  const pid_t vmm = vmm_.load(std::memory_order_relaxed);
  PlacementPolicy::Look look{.now = Clock::now(),
                             .faults = faults != faults_seen_,
                             .other_vm = vmm != vmm_seen_,
                             .hot_cpu = std::nullopt,
                             .queued = Nanoseconds(0)};
  faults_seen_ = faults;
  if (look.other_vm) sleeps_seen_.clear();
  vmm_seen_ = vmm;
  if (const auto queued = time_queued(loop_)) {
    look.queued = *queued - queued_seen_;
    queued_seen_ = *queued;
  }
  ++looks_;
  const bool examine = looks_ <= kFirstLooks || looks_ % kLooksPerExamination == 0;
  look.hot_cpu = following_ && look.faults && examine ? hot_cpu(vmm) : at_;
  return look;
}

std::optional<int> Placement::hot_cpu(pid_t vmm) {
  std::map<pid_t, std::uint64_t> seen;
  std::map<int, std::uint64_t> by_cpu;
  std::uint64_t all = 0;
  for (const pid_t thread : threads_of(vmm, kMaxThreads)) {
    const auto activity = thread_activity(vmm, thread);
    if (!activity) continue;
    seen[thread] = activity->sleeps;
    const auto before = sleeps_seen_.find(thread);
    if (before == sleeps_seen_.end()) continue;
    const std::uint64_t sleeps = activity->sleeps - before->second;
    by_cpu[activity->cpu] += sleeps;
    all += sleeps;
  }
  sleeps_seen_ = std::move(seen);
  const auto hot = std::ranges::max_element(by_cpu, {}, [](const auto& cpu) { return cpu.second; });
  if (all == 0) return at_;  // nothing to compare with yet
  return hot->second * 5 < all * 4 ? std::nullopt : std::optional(hot->first);
}

void Placement::apply(const PlacementPolicy::Decision& decision) {
  if (!options_.spin) {
    spin_.store(decision.spin ? Nanoseconds(kAutomaticSpin).count() : 0, std::memory_order_relaxed);
  }
  if (!following_ || decision.cpu == at_) return;
  const auto cpu = static_cast<std::size_t>(decision.cpu.value_or(-1));
  if (!decision.cpu || cpu >= kMaxCpus || !allowed_[cpu]) return let_go();
  CpuSet only;
  only.set(cpu);
  if (set_allowed_cpus(loop_, only) && set_scheduling_class(loop_, SchedulingClass::kBackground)) {
    at_ = decision.cpu;
  } else {
    let_go();
  }
}

void Placement::let_go() {
  if (!following_) return;
  // The class first: with it the loop is not at others' mercy any more.
  static_cast<void>(set_scheduling_class(loop_, SchedulingClass::kNormal));
  static_cast<void>(set_allowed_cpus(loop_, allowed_));
  at_.reset();
}

}  // namespace thaw
