#include "vmm-client/guest_memory.h"

#include <array>
#include <utility>

#include "base/check.h"
#include "base/socket.h"
#include "base/userfaultfd.h"
#include "format/limits.h"

namespace thaw {

namespace {

constexpr ByteCount kLargestImage = bytes_of(PageCount{limits::kMaxImagePages});

Result<void> check_shape(const GuestRegion& shape) {
  const std::uint64_t page_size = shape.page_size.value;
  if (page_size != kPageBytes && page_size != kHugePageBytes) {
    return fail(ErrorCode::kInvalidArgument, "a page size of {} bytes, not {} or {}", page_size,
                kPageBytes, kHugePageBytes);
  }
  if (shape.size.value == 0) return fail(ErrorCode::kInvalidArgument, "a region of 0 bytes");
  if (shape.size.value % page_size != 0) {
    return fail(ErrorCode::kRegionUnaligned, "a region of {} bytes in pages of {}",
                shape.size.value, page_size);
  }
  return {};
}

Result<void> check_shapes(std::span<const GuestRegion> shapes) {
  if (shapes.empty()) return fail(ErrorCode::kInvalidArgument, "no regions");
  if (shapes.size() > limits::kMaxRegions) {
    return fail(ErrorCode::kTooLarge, "{} regions, more than {}", shapes.size(),
                limits::kMaxRegions);
  }
  ByteCount total;
  for (const GuestRegion& shape : shapes) {
    TRY(check_shape(shape));
    if (!within(total.value, shape.size.value, kLargestImage.value)) {
      return fail(ErrorCode::kTooLarge, "more than {} bytes of guest memory", kLargestImage.value);
    }
    total += shape.size;
  }
  return {};
}

Result<void> check_regions(std::span<const MappedRegion> regions) {
  std::vector<GuestRegion> shapes;
  shapes.reserve(regions.size());
  for (const MappedRegion& region : regions) shapes.push_back({region.size, region.page_size});
  TRY(check_shapes(shapes));
  for (const MappedRegion& region : regions) {
    if (region.base.value % region.page_size.value != 0) {
      return fail(ErrorCode::kRegionUnaligned, "a region at {:#x} in pages of {}",
                  region.base.value, region.page_size.value);
    }
  }
  return {};
}
Result<Mapping> map_region(const GuestRegion& shape) {
  if (shape.page_size.value == kHugePageBytes) return Mapping::anonymous_huge(shape.size);
  return Mapping::anonymous(shape.size);
}

}  // namespace

Result<MissingMemory> MissingMemory::register_regions(std::span<const MappedRegion> regions) {
  TRY(check_regions(regions));
  UniqueFd uffd = TRY(create_userfaultfd());
  std::vector<HandoffRegion> described;
  described.reserve(regions.size());
  ImageOffset offset;
  for (const MappedRegion& region : regions) {
    TRY(keep_to_this_process(region.base, region.size));
    TRY(register_missing(uffd, region.base, region.size));
    described.push_back({region.base, region.size, offset, region.page_size});
    offset += region.size;
  }
  return MissingMemory(std::move(uffd), std::move(described));
}

Result<void> MissingMemory::hand_over(const std::string& socket_path, Deadline deadline) {
  if (socket_.valid()) return fail(ErrorCode::kAlreadyExists, "the memory was handed over before");
  UniqueFd socket = TRY(connect_unix(socket_path, deadline));
  const std::string text = encode_handoff(regions_);
  const std::array descriptors{uffd_.get()};
  TRY(send_with_descriptors(socket, as_bytes(text), descriptors, deadline));
  socket_ = std::move(socket);
  return {};
}

Result<GuestMemory> GuestMemory::create(std::span<const GuestRegion> shapes) {
  TRY(check_shapes(shapes));
  std::vector<Mapping> mappings;
  std::vector<MappedRegion> regions;
  mappings.reserve(shapes.size());
  regions.reserve(shapes.size());
  for (const GuestRegion& shape : shapes) {
    mappings.push_back(TRY(map_region(shape)));
    regions.push_back({mappings.back().address(), shape.size, shape.page_size});
  }
  MissingMemory registered = TRY(MissingMemory::register_regions(regions));
  return GuestMemory(std::move(registered), std::move(mappings));
}

MutableByteSpan GuestMemory::region(std::size_t index) const {
  CHECK(index < mappings_.size());
  return mappings_[index].bytes();
}

}  // namespace thaw
