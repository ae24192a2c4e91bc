#include "vmm-client/microvm/capture.h"

#include "base/file.h"
#include "vmm-client/microvm/limits.h"

namespace thaw {

Result<MemoryImageStatistics> capture(MicroVm& vm, const CaptureFiles& files, Captured captured) {
  std::vector<bool> changed;
  if (captured == Captured::kChanges) changed = TRY(vm.changed_pages());
  const Bytes state = encode_state(TRY(vm.state()));
  const MemoryImageStatistics statistics =
      TRY(write_memory_image(vm.memory(), files.memory, changed));
  PartialFile file = TRY(PartialFile::create(files.state));
  TRY(write_at(file.fd(), state, 0));
  TRY(file.publish());
  return statistics;
}

Result<MicroVmState> read_state_file(const std::string& path) {
  const UniqueFd file = TRY(open_for_reading(path));
  const ByteCount size = TRY(file_size(file));
  if (size.value > limits::kMaxMicroVmStateFileBytes) {
    return fail(ErrorCode::kTooLarge, "{} has {} bytes", path, size.value);
  }
  Bytes content(size.value);
  TRY(read_at(file, content, 0));
  return decode_state(content);
}

}  // namespace thaw
