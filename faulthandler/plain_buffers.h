#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "faulthandler/limits.h"
#include "format/limits.h"

namespace thaw {

/// Room for decompressed packs, kept for the next ones: memory that is new to the process costs as
/// much as a copy. At most limits::kMaxPlainBuffers at a time, of which sessions that still wait
/// for their VM leave a part to those that have one. One thread.
class PlainBuffers {
 public:
  using Buffer = std::unique_ptr<std::byte[]>;

  bool has_room(bool has_vm) const {
    return taken_ < (has_vm ? limits::kMaxPlainBuffers : limits::kMaxWaitingPlainBuffers);
  }
  /// Room for limits::kMaxPackPages pages. REQUIRES: has_room().
  Buffer take() {
    ++taken_;
    if (free_.empty()) {
      return std::make_unique_for_overwrite<std::byte[]>(limits::kMaxPackPages * kPageBytes);
    }
    Buffer buffer = std::move(free_.back());
    free_.pop_back();
    return buffer;
  }
  void give_back(Buffer buffer) {
    --taken_;
    if (free_.size() < limits::kSparePlainBuffers) free_.push_back(std::move(buffer));
  }

 private:
  std::size_t taken_ = 0;
  std::vector<Buffer> free_;
};

}  // namespace thaw
