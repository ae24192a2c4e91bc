#pragma once

#include "base/clock.h"
#include "base/error.h"
#include "base/types.h"
#include "faulthandler/server_choice.h"
#include "format/chunk.h"

namespace thaw {

/// A page that a vCPU waits for.
struct WantedPage {
  PageIndex page;
  ChunkId chunk;
  Clock::time_point since;  // when its fault was read
  unsigned attempts = 0;    // replies to it that were no good
  ServerSet refused_by{};   // whose they were
  unsigned list = 0;        // of servers, by whose numbers that is
};

/// A page that rides along with wanted ones if the server has it at hand.
struct Rider {
  PageIndex page;
  ChunkId chunk;
};

/// What is left to try for a page that a server has refused or damaged.
enum class Refusal {
  kAskAgain,  // it may be asked for again at once
  kForNow,    // a server that is away may have it
  kForGood,   // no server has it
};

/// Who asked for pages, and is told of each exactly once unless it is forgotten before.
class ChunkSink {
 public:
  /// The stored form of the page's chunk, unverified; valid during the call. An error: it is
  /// damaged, and on_refused() follows.
  virtual Result<void> on_chunk(const WantedPage& wanted, ByteSpan chunk) = 0;
  /// The same; a rider that is damaged has been left out.
  virtual Result<void> on_rider(const Rider& rider, ByteSpan chunk) = 0;
  /// No server has answered with this chunk so far, of those that were asked.
  virtual void on_refused(const WantedPage& wanted, const Error& error, Refusal refusal) = 0;
  virtual void on_left_out(const Rider& rider) = 0;
  /// What one request asked for has been told.
  virtual void on_batch_end() = 0;
  /// There is room for requests again.
  virtual void on_room() = 0;

 protected:
  ~ChunkSink() = default;
};

}  // namespace thaw
