#pragma once

#include <algorithm>
#include <array>
#include <string>

#include "base/bytes.h"

namespace thaw {

/// Which store a page server keeps: random, drawn when the store begins to be served. Snapshot ids
/// and chunk ids mean something only together with it, since every store counts from 1. All zeros
/// is no store.
struct StoreId {
  std::array<std::byte, 16> bytes{};

  bool valid() const {
    return std::ranges::any_of(bytes, [](std::byte b) { return b != std::byte{0}; });
  }
  /// For people, and in files: hexadecimal digits.
  std::string text() const { return to_hex(bytes); }
  friend auto operator<=>(const StoreId&, const StoreId&) = default;
};

}  // namespace thaw
