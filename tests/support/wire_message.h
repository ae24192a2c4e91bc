#pragma once

#include "base/clock.h"
#include "base/unique_fd.h"
#include "format/wire.h"

namespace thaw::test {

/// A message of the wire as it came.
struct WireMessage {
  Bytes head;  // all before the body
  Envelope envelope;
  Bytes body;
};

/// The next one. The errors of receive_all() and of what cannot be decoded.
Result<WireMessage> receive_message(const UniqueFd& from, Deadline deadline);

}  // namespace thaw::test
