#pragma once

#include <cstdint>

namespace thaw {

/// How many pages around a demanded one are worth bringing along, learned from how many of them the
/// guest would have asked for. A page that was brought says nothing of itself any more; so now and
/// then one is left out, and whether the guest asks for it (a hit) counts for its neighbours. A
/// ride costs about a fifth of a demand fetch, hence the bounds. One thread.
class AroundWindow {
 public:
  /// `most` is a power of two; 1 switches fault-around off.
  explicit AroundWindow(std::uint32_t most);

  /// Pages in the aligned block around a fault from which pages ride along; 1 for none.
  std::uint32_t size() const { return size_; }
  /// For the next demanded page: pages in the block from which one is left out, at least a few,
  /// also while nothing rides; 1 for none. Often at first, then now and then, since one that is
  /// left out costs a demand fetch if the guest does ask for it.
  std::uint32_t next_probe_size();

  /// One more page was left out, and `expired` says whether an earlier one is not looked at any
  /// more; nor is its hit, if it had one.
  enum class Expired { kNone, kHit, kMiss };
  void on_probe(Expired expired);
  /// The guest asked for one of them.
  void on_hit();
  /// One of them was brought or given back before the guest asked: it says nothing of its
  /// neighbours and does not count any more. When it expires, none does.
  void on_withdrawn();

  std::uint64_t hits() const { return total_hits_; }
  std::uint64_t probes() const { return total_probes_; }

 private:
  void adapt();

  const std::uint32_t most_;
  std::uint32_t size_;
  std::uint32_t probes_ = 0;  // looked at now
  std::uint32_t hits_ = 0;    // of those
  std::uint32_t since_change_ = 0;
  std::uint64_t demands_ = 0;
  std::uint64_t total_probes_ = 0;
  std::uint64_t total_hits_ = 0;
};

}  // namespace thaw
