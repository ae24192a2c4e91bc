#include "vmm-client/microvm/capture.h"

#include "base/file.h"
#include "vmm-client/microvm/limits.h"

namespace thaw {

Result<MemoryImageStatistics> capture(const MicroVm& vm, const CaptureFiles& files) {
  const Bytes state = encode_state(TRY(vm.state()));
  const MemoryImageStatistics statistics = TRY(write_memory_image(vm.memory(), files.memory));
  PartialFile file = TRY(PartialFile::create(files.state));
  TRY(write_at(file.fd(), state, 0));
  TRY(file.publish());
  return statistics;
}

Result<MicroVmState> read_state_file(const std::string& path) {
  const std::string content = TRY(read_text_file(path, limits::kMaxMicroVmStateFileBytes));
  return decode_state(as_bytes(content));
}

}  // namespace thaw
