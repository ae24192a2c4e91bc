#pragma once

#include <cstdint>

namespace thaw {

/// What is known of one page of guest memory. The numbers stand in the records of served memory.
enum class PageState : std::uint8_t {
  kMissing = 0,  // as the kernel sees it at the start
  kProbe = 1,    // missing, and left out of a fault-around to see whether the guest asks for it
  kComing = 2,   // on its way, beside a demanded one or in a pack; nobody waits for it
  kWanted = 3,   // a vCPU waits, its chunk is asked for or about to be
  kPresent = 4,  // was filled
  kRemoved = 5,  // the guest gave it back: zero at every later fault, never the snapshot's content
};

}  // namespace thaw
