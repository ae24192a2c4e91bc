#include "vmm-client/thaw.h"

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "format/limits.h"
#include "vmm-client/guest_memory.h"

struct thaw_memory {
  thaw::GuestMemory memory;
};

namespace {

struct LastError {
  std::string name;
  std::string text;
};

LastError& last_error() {
  thread_local LastError error;
  return error;
}

using Regions = std::span<const thaw::GuestRegion>;
using Restore = thaw::Result<thaw::GuestMemory> (*)(Regions, const std::string&, thaw::Deadline);

template <thaw::WriteTracking tracking>
thaw::Result<thaw::GuestMemory> restore_own(Regions shapes, const std::string& socket_path,
                                            thaw::Deadline deadline) {
  thaw::GuestMemory memory = TRY(thaw::GuestMemory::create(shapes, tracking));
  TRY(memory.hand_over(socket_path, deadline));
  return memory;
}

thaw::Result<std::unique_ptr<thaw_memory>> restore(std::span<const thaw_region> regions,
                                                   const std::string& socket_path,
                                                   Restore restore_memory) {
  // More regions than the limit are not even copied.
  if (regions.size() > thaw::limits::kMaxRegions) {
    return thaw::fail(thaw::ErrorCode::kTooLarge, "{} regions", regions.size());
  }
  std::vector<thaw::GuestRegion> shapes;
  shapes.reserve(regions.size());
  for (const thaw_region& region : regions) shapes.push_back({{region.size}, {region.page_size}});
  const auto deadline = thaw::Deadline::after(thaw::limits::kPartialMessageTimeout);
  return std::make_unique<thaw_memory>(TRY(restore_memory(shapes, socket_path, deadline)));
}

int fail_with(const thaw::Error& error) {
  last_error() = {std::string(thaw::error_name(error.code())), error.message()};
  return -1;
}

int status_of(const thaw::Result<void>& done) noexcept {
  return done ? 0 : fail_with(done.error());
}

bool has_region(const thaw_memory* memory, std::size_t index) {
  return memory != nullptr && index < memory->memory.region_count();
}

/// The border to C, as what is noexcept below: nothing is thrown across it.
int restore_for_c(const thaw_region* regions, std::size_t region_count, const char* socket_path,
                  thaw_memory** out, Restore restore_memory) noexcept {
  if (out != nullptr) *out = nullptr;
  if (out == nullptr || socket_path == nullptr || (regions == nullptr && region_count != 0)) {
    return fail_with({thaw::ErrorCode::kInvalidArgument, "a null pointer"});
  }
  auto restored = restore({regions, region_count}, socket_path, restore_memory);
  if (!restored) return fail_with(restored.error());
  *out = restored->release();
  return 0;
}

thaw::Result<void> discard(thaw_memory* memory, std::size_t index, std::uint64_t offset,
                           std::uint64_t size) noexcept {
  const bool whole_pages = (offset | size) % thaw::kPageBytes == 0;
  if (!has_region(memory, index) || !whole_pages ||
      !thaw::within(offset, size, memory->memory.region(index).size())) {
    return thaw::fail(thaw::ErrorCode::kInvalidArgument, "no pages of a region");
  }
  return memory->memory.discard(index, {offset}, {size});
}

thaw::Result<void> find_changed(const thaw_memory* memory, std::size_t index,
                                std::span<std::uint8_t> bitmap) noexcept {
  if (!has_region(memory, index)) {
    return thaw::fail(thaw::ErrorCode::kInvalidArgument, "no such region");
  }
  const std::size_t pages = memory->memory.region(index).size() / thaw::kPageBytes;
  if (bitmap.data() == nullptr || bitmap.size() != (pages + 7) / 8) {
    return thaw::fail(thaw::ErrorCode::kInvalidArgument, "a bitmap of {} bytes for {} pages",
                      bitmap.size(), pages);
  }
  const std::vector<bool> changed = TRY(memory->memory.changed_pages(index));
  std::ranges::fill(bitmap, std::uint8_t{0});
  for (std::size_t page = 0; page < pages; ++page) {
    if (!changed[page]) continue;
    bitmap[page / 8] = static_cast<std::uint8_t>(bitmap[page / 8] | 1 << page % 8);
  }
  return {};
}

}  // namespace

extern "C" {

int thaw_memory_restore(const thaw_region* regions, size_t region_count, const char* socket_path,
                        thaw_memory** out) {
  return restore_for_c(regions, region_count, socket_path, out,
                       restore_own<thaw::WriteTracking::kOff>);
}

int thaw_memory_restore_tracked(const thaw_region* regions, size_t region_count,
                                const char* socket_path, thaw_memory** out) {
  return restore_for_c(regions, region_count, socket_path, out,
                       restore_own<thaw::WriteTracking::kOn>);
}

int thaw_memory_share(const thaw_region* regions, size_t region_count, const char* socket_path,
                      thaw_memory** out) {
  return restore_for_c(regions, region_count, socket_path, out, thaw::GuestMemory::share);
}

int thaw_memory_discard(thaw_memory* memory, size_t index, uint64_t offset, uint64_t size) {
  return status_of(discard(memory, index, offset, size));
}

int thaw_memory_changed(const thaw_memory* memory, size_t index, uint8_t* bitmap,
                        size_t bitmap_size) {
  return status_of(find_changed(memory, index, {bitmap, bitmap_size}));
}

void* thaw_memory_address(const thaw_memory* memory, size_t index) {
  if (!has_region(memory, index)) return nullptr;
  return memory->memory.region(index).data();
}

void thaw_memory_close(thaw_memory* memory) { const std::unique_ptr<thaw_memory> owner(memory); }

const char* thaw_last_error_name(void) { return last_error().name.c_str(); }
const char* thaw_last_error_text(void) { return last_error().text.c_str(); }

}  // extern "C"
