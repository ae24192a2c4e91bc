#pragma once

#include <cstdint>
#include <optional>

#include "base/bytes.h"
#include "base/error.h"
#include "faulthandler/errands.h"

namespace thaw {

/// What a handler and its supervisor, which are of one build, say to each other about errands: each
/// a message of a connection that keeps their bounds, with at most one descriptor. Both ends check
/// what they get, because they do not have the same rights.

/// A request. `number` comes back with the answer.
struct ErrandRequest {
  std::uint64_t number = 0;
  std::uint64_t session = 0;
  Errand errand;
};
Bytes encode_errand(const ErrandRequest& request);
/// kProtocol.
Result<ErrandRequest> decode_errand(ByteSpan bytes);

struct ErrandAnswer {
  std::uint64_t number = 0;
  ErrandResult result;
};
/// A failure's text is cut at limits::kMaxErrandText.
Bytes encode_answer(std::uint64_t number, const ErrandResult& result);
/// All but the descriptor. kProtocol.
Result<ErrandAnswer> decode_answer(ByteSpan bytes);

}  // namespace thaw
