#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>

namespace thaw {

/// A number of things of one kind. Adds to and subtracts from its own kind only.
template <typename Tag>
struct Count {
  std::uint64_t value = 0;

  friend constexpr auto operator<=>(Count, Count) = default;
  constexpr Count& operator+=(Count other) { return value += other.value, *this; }
  friend constexpr Count operator+(Count a, Count b) { return {a.value + b.value}; }
  friend constexpr Count operator-(Count a, Count b) { return {a.value - b.value}; }
};

/// A place on a line measured in `Distance`. Two places give a distance; a place and a distance
/// give a place; nothing else compiles.
template <typename Tag, typename Distance>
struct Position {
  std::uint64_t value = 0;

  friend constexpr auto operator<=>(Position, Position) = default;
  constexpr Position& operator+=(Distance d) { return value += d.value, *this; }
  friend constexpr Position operator+(Position p, Distance d) { return {p.value + d.value}; }
  friend constexpr Position operator-(Position p, Distance d) { return {p.value - d.value}; }
  friend constexpr Distance operator-(Position a, Position b) { return {a.value - b.value}; }
};

using PageCount = Count<struct PageTag>;
using ByteCount = Count<struct ByteTag>;

/// Index of a 4 KiB page in a snapshot's image: guest memory first, then the VMM state file.
using PageIndex = Position<struct PageTag, PageCount>;
/// Byte offset in that image.
using ImageOffset = Position<struct ImageTag, ByteCount>;
/// Virtual address in the VMM's address space. Never dereferenced by Thaw.
using HostAddress = Position<struct HostTag, ByteCount>;

/// Contiguous pages of an image.
struct PageRange {
  PageIndex first;
  PageCount count;
  friend bool operator==(PageRange, PageRange) = default;
};

/// Size of a page of guest memory and of the plain form of a chunk.
inline constexpr std::size_t kPageBytes = 4096;
inline constexpr std::uint64_t kHugePageBytes = 2u << 20;

constexpr ByteCount bytes_of(PageCount pages) { return {pages.value * kPageBytes}; }
/// Pages that hold this many bytes, the last one possibly in part.
constexpr PageCount pages_for(ByteCount bytes) {
  return {bytes.value / kPageBytes + (bytes.value % kPageBytes != 0 ? 1 : 0)};
}
constexpr PageIndex page_of(ImageOffset offset) { return {offset.value / kPageBytes}; }
constexpr ImageOffset offset_of(PageIndex page) { return {page.value * kPageBytes}; }

/// Whether [offset, offset + length) lies within [0, size), without computing a sum.
constexpr bool within(std::uint64_t offset, std::uint64_t length, std::uint64_t size) {
  return offset <= size && length <= size - offset;
}

}  // namespace thaw
