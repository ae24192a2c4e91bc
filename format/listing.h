#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/error.h"

namespace thaw {

/// A listing comes in parts, and its server says whether more follow: one that lies could send
/// parts without end. Checks what comes: names ascend from part to part, and all of it is bounded.
/// One thread.
class Listing {
 public:
  /// What a client keeps of a listing, at most.
  static constexpr std::size_t kMaxBytes = std::size_t{512} << 20;

  /// An entry that takes so many bytes. kProtocol when its name is not above the last one,
  /// kTooLarge.
  Result<void> add(std::string_view name, std::size_t bytes) {
    if (!last_.empty() && name <= last_) {
      return fail(ErrorCode::kProtocol, "a listing has \"{}\" behind \"{}\"", name, last_);
    }
    bytes_ += bytes;
    if (bytes_ > kMaxBytes) {
      return fail(ErrorCode::kTooLarge, "a listing of more than {} MiB", kMaxBytes >> 20);
    }
    last_ = name;
    grew_ = true;
    return {};
  }
  /// Behind a part: whether to ask for another. kProtocol when this one was empty and another one
  /// is said to follow.
  Result<bool> goes_on(bool more) {
    if (more && !grew_) {
      return fail(ErrorCode::kProtocol, "an empty part of a listing that is to go on");
    }
    grew_ = false;
    return more;
  }
  /// The name that the next part begins behind; empty: at the beginning.
  const std::string& last() const { return last_; }

 private:
  std::string last_;
  std::size_t bytes_ = 0;
  bool grew_ = false;  // in this part
};

}  // namespace thaw
