#include "faulthandler/memory_room.h"

#include <algorithm>

#include "faulthandler/limits.h"

namespace thaw {

namespace {

/// What favours leave of a limit.
std::uint64_t reserve_of(const MemoryLimit& limit, ByteCount missing) {
  if (limit.of == MemoryLimit::Of::kHost) {
    return std::max(limits::kHostReserveLeastBytes, limit.most.value / limits::kHostReservePart);
  }
  // A tmpfs holds guest memory alone; in a cgroup the VMM needs some for itself.
  const std::uint64_t beside =
      limit.of == MemoryLimit::Of::kFileSystem ? 0 : limits::kReserveLeastBytes;
  if (missing.value <= limit.free.value && limit.free.value - missing.value >= beside) {
    return beside;
  }
  return std::max(limits::kReserveLeastBytes, limit.most.value / limits::kReservePart);
}

Clock::rep in(Nanoseconds duration) { return (Clock::now() + duration).time_since_epoch().count(); }

}  // namespace

Allowance allowance(std::span<const MemoryLimit> limits, ByteCount missing) {
  Allowance least{{limits::kGrantMostBytes}};
  std::uint64_t least_spare = ~std::uint64_t{0};
  for (const MemoryLimit& limit : limits) {
    const std::uint64_t reserve = reserve_of(limit, missing);
    const std::uint64_t spare = limit.free.value - std::min(limit.free.value, reserve);
    if (spare >= least_spare) continue;
    least_spare = spare;
    const std::uint64_t grant =
        std::clamp(spare / limits::kGrantPart, limits::kGrantLeastBytes, limits::kGrantMostBytes);
    least = {{std::min(grant, spare)}, limit};
  }
  return least;
}

void MemoryRoom::begin(WorkerPool& workers, pid_t pid) {
  workers_ = &workers;
  pid_ = pid;
  credit_ = static_cast<std::int64_t>(limits::kGrantLeastBytes);
  fresh_until_ = in(limits::kRoomFresh);
}

void MemoryRoom::set_backing(BackingFile file) {
  zeros_cost_ = file.is_there;
  {
    const std::lock_guard lock(mutex_);
    backing_ = std::make_shared<const BackingFile>(std::move(file));
  }
  knows_backing_ = true;
}

void MemoryRoom::look(ByteCount missing) {
  if (workers_ == nullptr || looking_.active() || !knows_backing()) return;
  missing_ = missing.value;
  wanted_ = false;
  looking_.start(*workers_);
}

void MemoryRoom::note_refusal() {
  refused_until_ = in(limits::kRoomPause);
  credit_ = 0;
}

void MemoryRoom::stop() {
  if (workers_ != nullptr) looking_.cancel(*workers_);
}

bool MemoryRoom::open() {
  if (closed()) return false;
  if (workers_ == nullptr) return true;
  const Clock::rep left = fresh_until_.load(std::memory_order_relaxed) - in(Nanoseconds(0));
  const bool open = left > 0 && credit_.load(std::memory_order_relaxed) > 0;
  if (!open || Nanoseconds(left) < limits::kRoomFresh / 2) {
    wanted_.store(true, std::memory_order_relaxed);
  }
  return open;
}

bool MemoryRoom::open_or_look() {
  if (open()) return true;
  if (closed() || !knows_backing()) return false;
  look_now();
  return open();
}

std::shared_ptr<const MemoryLimits> MemoryRoom::limits() {
  std::shared_ptr<const BackingFile> backing;
  {
    const std::lock_guard lock(mutex_);
    if (limits_ != nullptr) return limits_;
    backing = backing_;
  }
  auto found = std::make_shared<const MemoryLimits>(MemoryLimits::of_process(pid_, backing));
  const std::lock_guard lock(mutex_);
  if (limits_ == nullptr) limits_ = std::move(found);
  return limits_;
}

void MemoryRoom::look_now() {
  const std::vector<MemoryLimit> seen = limits()->read();
  const Allowance allowed = allowance(seen, {missing_.load()});
  const bool refused = in(Nanoseconds(0)) < refused_until_.load();
  credit_ = refused ? 0 : static_cast<std::int64_t>(allowed.bytes.value);
  fresh_until_ = in(limits::kRoomFresh);
  const std::lock_guard lock(mutex_);
  tightest_ = allowed.tightest;
}

std::string MemoryRoom::short_of() const {
  const std::lock_guard lock(mutex_);
  if (!tightest_) return {};
  const bool is_host = tightest_->of == MemoryLimit::Of::kHost;
  const std::uint64_t least = is_host ? limits::kHostReserveLeastBytes : limits::kReserveLeastBytes;
  const std::uint64_t part = is_host ? limits::kHostReservePart : limits::kReservePart;
  if (tightest_->free.value > std::max(least, tightest_->most.value / part)) return {};
  return std::string(memory_limit_name(tightest_->of));
}

}  // namespace thaw
