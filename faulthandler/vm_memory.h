#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/clock.h"
#include "base/histogram.h"
#include "base/unique_fd.h"
#include "base/userfaultfd.h"
#include "faulthandler/errands.h"
#include "faulthandler/recorder.h"
#include "faulthandler/regions.h"
#include "format/control.h"

namespace thaw {

/// What becomes of a page that cannot be had.
enum class Unservable {
  kWaits,     // who wants it waits until it can
  kPoisoned,  // touching it is to be an error
  kEnds,      // the VM ends
};

/// The guest memory of one VM while it is served. On the loop's thread.
class VmMemory {
 public:
  /// Who decides what becomes of the VM.
  class Owner {
   public:
    /// The process whose memory it is; 0: that of nobody else.
    virtual pid_t vmm() const { return 0; }
    /// Has an errand done that is about that process. False when there is none.
    virtual bool begin_errand(ErrandTask&, Errand) { return false; }
    /// The guest cannot be served any more.
    virtual void give_up(const std::string& reason) = 0;
    /// The guest's memory is not what it should be: it must not go on, whatever its policy.
    virtual void stop_vm(const std::string& reason) = 0;
    /// This page cannot be had.
    virtual Unservable on_unservable(PageIndex page, const std::string& reason) = 0;
    /// What is wanted is here, and the kernel has no memory for it at present.
    virtual void on_memory_short(const std::string&) {}
    /// System calls on the memory take long, or do not any more.
    virtual void on_memory_slow(const std::string&) {}
    /// Faults were read; called once for all that were.
    virtual void on_faults() = 0;
    /// The window after the restore is over; what was touched in it, and what prefetch did.
    virtual void on_window_end(std::vector<Touch> touches) = 0;
    /// Every page is there or was removed, and the memory is not registered any more.
    virtual void on_detached() = 0;
    /// Pages have come to be there.
    virtual void on_present(PageRange) {}

   protected:
    ~Owner() = default;
  };

  virtual ~VmMemory() = default;

  /// Learns what check() needs to know, and calls `then`, now or later.
  virtual void prepare_check(std::function<void()> then) { then(); }
  /// Whether memory that is about to be handed over can be served. kNoRemoveEvents,
  /// kRegionMismatch, kUnsupported.
  virtual Result<void> check(const UniqueFd&, RemoveEvents, const RegionTable&) { return {}; }

  /// Opens the way to the page server, so that the first fault finds it made.
  virtual void connect() = 0;
  /// Calls on the memory have taken long before: they are made on a thread of its own at first.
  /// REQUIRES: neither start() nor adopt() was called.
  virtual void distrust() = 0;
  /// Begins to answer faults. REQUIRES: nobody has begun before.
  virtual void start(UniqueFd userfaultfd, RegionTable regions) = 0;
  /// Goes on to answer them after a process that has died. REQUIRES: its record has regions.
  virtual void adopt(UniqueFd userfaultfd) = 0;
  /// The VMM has exited. The userfaultfd is closed with this object.
  virtual void stop() = 0;
  virtual bool finished() const = 0;

  /// Since when the page that has been wanted longest is waited for; nothing: none is.
  virtual std::optional<Clock::time_point> waiting_since() const = 0;
  /// Pages that have been waited for since then, or longer, cannot be had.
  virtual void stop_waiting(Clock::time_point since, const std::string& reason) = 0;

  /// Whether a process still has the memory, as has_address_space() says. May be asked on another
  /// thread once stop() was called.
  virtual bool has_process() = 0;

  virtual void add_to(SessionReport& report) const = 0;

 protected:
  static constexpr const char* kSlow =
      "system calls on its memory take long: they are made on a thread of their own";
  static constexpr const char* kQuiet = "system calls on its memory take no longer than others";

  static void report_latency(const LatencyHistogram& latency, SessionReport& to) {
    const auto microseconds = [](Nanoseconds t) { return static_cast<double>(t.count()) / 1000; };
    to.latency_us_p50 = microseconds(latency.quantile(0.5));
    to.latency_us_p99 = microseconds(latency.quantile(0.99));
    to.latency_us_max = microseconds(latency.max());
  }
};

}  // namespace thaw
