#include "vmm-client/thaw.h"

#include <memory>
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

thaw::Result<std::unique_ptr<thaw_memory>> restore(std::span<const thaw_region> regions,
                                                   const std::string& socket_path) {
  // More regions than the limit are not even copied.
  if (regions.size() > thaw::limits::kMaxRegions) {
    return thaw::fail(thaw::ErrorCode::kTooLarge, "{} regions", regions.size());
  }
  std::vector<thaw::GuestRegion> shapes;
  shapes.reserve(regions.size());
  for (const thaw_region& region : regions) shapes.push_back({{region.size}, {region.page_size}});
  thaw::GuestMemory memory = TRY(thaw::GuestMemory::create(shapes));
  const auto deadline = thaw::Deadline::after(thaw::limits::kPartialMessageTimeout);
  TRY(memory.hand_over(socket_path, deadline));
  return std::make_unique<thaw_memory>(std::move(memory));
}

/// The border to C: nothing is thrown across it.
int restore_for_c(const thaw_region* regions, std::size_t region_count, const char* socket_path,
                  thaw_memory** out) noexcept {
  if (out != nullptr) *out = nullptr;
  if (out == nullptr || socket_path == nullptr || (regions == nullptr && region_count != 0)) {
    last_error() = {"invalid_argument", "invalid_argument: a null pointer"};
    return -1;
  }
  auto restored = restore({regions, region_count}, socket_path);
  if (!restored) {
    last_error() = {std::string(thaw::error_name(restored.error().code())),
                    restored.error().message()};
    return -1;
  }
  *out = restored->release();
  return 0;
}

}  // namespace

extern "C" {

int thaw_memory_restore(const thaw_region* regions, size_t region_count, const char* socket_path,
                        thaw_memory** out) {
  return restore_for_c(regions, region_count, socket_path, out);
}

void* thaw_memory_address(const thaw_memory* memory, size_t index) {
  if (memory == nullptr || index >= memory->memory.region_count()) return nullptr;
  return memory->memory.region(index).data();
}

void thaw_memory_close(thaw_memory* memory) { const std::unique_ptr<thaw_memory> owner(memory); }

const char* thaw_last_error_name(void) { return last_error().name.c_str(); }
const char* thaw_last_error_text(void) { return last_error().text.c_str(); }

}  // extern "C"
