#pragma once

#include <cstring>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/check.h"

namespace thaw {

/// One of KVM's structures that end in an array: a header, then entries. All zero at first.
template <typename Header, typename Entry>
class KvmArray {
  static_assert(sizeof(Header) % alignof(Entry) == 0);

 public:
  explicit KvmArray(std::size_t entries) : bytes_(sizeof(Header) + entries * sizeof(Entry)) {}
  /// With these entries; the header's count is the caller's to set.
  explicit KvmArray(std::span<const Entry> entries) : KvmArray(entries.size()) {
    if (entries.empty()) return;
    std::memcpy(bytes_.data() + sizeof(Header), entries.data(), entries.size_bytes());
  }

  // SAFETY: the bytes begin with a header, are aligned for any type, and all are trivial.
  Header& header() { return *reinterpret_cast<Header*>(bytes_.data()); }
  std::vector<Entry> first(std::size_t count) const {
    CHECK(count <= (bytes_.size() - sizeof(Header)) / sizeof(Entry));
    std::vector<Entry> entries(count);
    if (count == 0) return entries;
    std::memcpy(entries.data(), bytes_.data() + sizeof(Header), count * sizeof(Entry));
    return entries;
  }

 private:
  Bytes bytes_;
};

}  // namespace thaw
