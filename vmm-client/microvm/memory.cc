#include "vmm-client/microvm/memory.h"

#include <array>

#include "base/check.h"
#include "base/file.h"
#include "vmm-client/memory_shell.h"

namespace thaw {

Result<MicroVmMemory> MicroVmMemory::zeros(ByteCount size) {
  return MicroVmMemory(TRY(Mapping::anonymous(size)));
}

Result<MicroVmMemory> MicroVmMemory::from_file(const std::string& path, const MicroVmState& state) {
  const ByteCount size = state.memory;
  const UniqueFd file = TRY(open_for_reading(path));
  if (const ByteCount found = TRY(file_size(file)); found != size) {
    return fail(ErrorCode::kMalformed, "{} has {} bytes, the state is of a VM with {}", path,
                found.value, size.value);
  }
  if (state.content) TRY(check_content(file, size, *state.content));
  return MicroVmMemory(TRY(Mapping::private_file(file, size)));
}

Result<MicroVmMemory> MicroVmMemory::missing(ByteCount size) {
  const std::array shapes{GuestRegion{size, {kPageBytes}}};
  return MicroVmMemory(TRY(GuestMemory::create(shapes)));
}

Result<MicroVmMemory> MicroVmMemory::shared(ByteCount size, const std::string& socket_path,
                                            Deadline deadline) {
  const std::array shapes{GuestRegion{size, {kPageBytes}}};
  return MicroVmMemory(TRY(GuestMemory::share(shapes, socket_path, deadline)));
}

Result<void> MicroVmMemory::restore(const MemorySource& source, Deadline deadline,
                                    PhaseTimer& phases) {
  auto* const missing = std::get_if<GuestMemory>(&memory_);
  CHECK(missing != nullptr);
  return restore_memory(*missing, source, deadline, phases);
}

MutableByteSpan MicroVmMemory::bytes() const {
  if (const auto* mapping = std::get_if<Mapping>(&memory_)) return mapping->bytes();
  return std::get<GuestMemory>(memory_).region(0);
}

}  // namespace thaw
