#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/error.h"
#include "format/manifest.h"
#include "pageserver/store.h"

namespace thaw {

// Pieces of the store's keys and values, which FORMAT.md lists.

inline void append_big_endian(std::string& key, std::uint64_t value, unsigned bytes) {
  for (unsigned i = bytes; i-- > 0;) key.push_back(static_cast<char>(value >> (8 * i)));
}

/// A number in 8 bytes.
inline std::string number_key(std::uint64_t value) {
  std::string text;
  append_big_endian(text, value, 8);
  return text;
}

/// REQUIRES: at most 8 bytes.
inline std::uint64_t load_big_endian(ByteSpan bytes) {
  std::uint64_t value = 0;
  for (const std::byte byte : bytes) value = value << 8 | std::to_integer<std::uint64_t>(byte);
  return value;
}
/// The number in a value of 8 bytes; kCorrupt.
inline Result<std::uint64_t> parse_number(ByteSpan value) {
  if (value.size() != 8) return fail(ErrorCode::kCorrupt, "a number of {} bytes", value.size());
  return load_big_endian(value);
}

// In the family of totals: all names of namespaces, and of a namespace the bounds of its ids.
inline constexpr std::string_view kNamespaces = "namespace/";
inline constexpr char kWatermark = 'w';
inline constexpr char kLastSnapshot = 's';
// In the family of snapshots.
inline constexpr char kManifests = 'm';
/// Kinds of what pushes and people store, and of what restores store.
inline constexpr std::string_view kPushedKinds = "mndtpk";
inline constexpr std::string_view kRecordedKinds = "rjlwghc";
/// Those of the latter that say how many bytes packs have.
inline constexpr std::string_view kPackSums = "gh";

/// Of one kind of thing in a namespace.
inline std::string prefixed(char kind, NamespaceId in) {
  std::string key(1, kind);
  append_big_endian(key, in.value, 2);
  return key;
}

/// Of one kind of thing of a snapshot.
inline std::string snapshot_key(char kind, NamespaceId in, SnapshotId snapshot) {
  return prefixed(kind, in) + number_key(snapshot.value);
}

}  // namespace thaw
