#pragma once

#include "base/bytes.h"

namespace thaw {

/// The payload's flat binary, for payload::kLoadAddress.
ByteSpan payload_image();

}  // namespace thaw
