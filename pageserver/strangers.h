#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace thaw {

/// Connections cost an attacker nothing, so those that have not said hello must not take what
/// peers with a certificate need. They have few slots of their own, and each network has a share of
/// these. Where a slot is missing, the connection that has shown least leaves. A certificate costs
/// its owner nothing more from the second connection on, so few connections of one identity keep
/// their slots by it, and all identities together leave some to newcomers. Pure.

/// What a stranger has done so far, which costs it more from step to step.
enum class StrangerStage : std::uint8_t {
  kSilent,  // it has sent nothing
  kSpoke,   // it has sent something
  kShown,   // it has shown the certificate of a peer that may do something
};

struct Stranger {
  std::string network;  // peer_network()
  StrangerStage stage = StrangerStage::kSilent;
  std::string identity = {};  // what it has shown
};

struct StrangerSlots {
  std::size_t all;
  std::size_t of_network;     // for each network but this host
  std::size_t of_identity;    // that one identity keeps
  std::size_t for_newcomers;  // that no identity keeps
};

/// Which of `strangers`, the oldest first, leaves when one more of `network` comes; nothing while
/// there are slots. In the order of their stages, and the oldest of these. Shown ones beyond what
/// their identity, or all of them, may keep count as if they had only spoken; the newest keep. A
/// network that has its share gives way itself.
std::optional<std::size_t> stranger_to_leave(std::span<const Stranger> strangers,
                                             std::string_view network, const StrangerSlots& slots);

}  // namespace thaw
