#include "faulthandler/around_window.h"

#include <algorithm>

#include "base/check.h"

namespace thaw {

namespace {

constexpr std::uint32_t kFirstSize = 8;
constexpr std::uint32_t kLeastProbeSize = 8;
/// Probes after which a share of hits means something, and between two changes of the size.
constexpr std::uint32_t kEnough = 8;
constexpr std::uint32_t kOftenUntil = 32;
constexpr std::uint64_t kDemandsPerProbe = 8;

}  // namespace

AroundWindow::AroundWindow(std::uint32_t most) : most_(most), size_(std::min(kFirstSize, most)) {
  CHECK(most > 0 && (most & (most - 1)) == 0);
}

std::uint32_t AroundWindow::next_probe_size() {
  const bool now = probes_ < kOftenUntil || ++demands_ % kDemandsPerProbe == 0;
  return most_ == 1 || !now ? 1 : std::max(size_, kLeastProbeSize);
}

void AroundWindow::on_probe(Expired expired) {
  if (expired == Expired::kHit) --hits_;
  if (expired == Expired::kNone) ++probes_;
  ++total_probes_;
  ++since_change_;
  adapt();
}

void AroundWindow::on_hit() {
  ++hits_;
  ++total_hits_;
  adapt();
}

void AroundWindow::on_withdrawn() {
  --probes_;
  --total_probes_;
}

void AroundWindow::adapt() {
  if (probes_ < kEnough || since_change_ < kEnough) return;
  const bool many = hits_ * 10 >= probes_ * 4;
  const bool few = hits_ * 10 < probes_;
  const std::uint32_t size = many  ? std::min(size_ * 2, most_)
                             : few ? std::max(size_ / 2, 1u)
                                   : size_;
  if (size == size_) return;
  size_ = size;
  since_change_ = 0;
}

}  // namespace thaw
