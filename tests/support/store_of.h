#pragma once

#include <cstddef>
#include <cstdint>

#include "format/store_id.h"

namespace thaw::test {

/// The id of some store; other numbers are other stores.
inline StoreId store_of(std::uint8_t number) {
  StoreId store;
  store.bytes.fill(std::byte{number});
  return store;
}

}  // namespace thaw::test
