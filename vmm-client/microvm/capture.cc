#include "vmm-client/microvm/capture.h"

#include "base/file.h"
#include "base/partial_file.h"
#include "base/path_target.h"
#include "vmm-client/microvm/limits.h"
#include "vmm-client/microvm/memory_identity.h"

namespace thaw {

namespace {

/// A link of the user stays, and what it names is replaced.
Result<PartialFile> create_output(const std::string& path) {
  constexpr int kStdout = 1;
  return PartialFile::create(TRY(find_target(path, kStdout)).path);
}

}  // namespace

Result<MemoryImageStatistics> capture(MicroVm& vm, const CaptureFiles& files, Captured captured) {
  std::vector<bool> changed;
  if (captured == Captured::kChanges) changed = TRY(vm.changed_pages());
  MicroVmState state = TRY(vm.state());
  PartialFile memory = TRY(create_output(files.memory));
  PartialFile rest = TRY(create_output(files.state));
  const MemoryImageStatistics written = TRY(write_memory_image(vm.memory(), memory.fd(), changed));
  if (captured == Captured::kAll) state.content = written.content;
  std::vector<std::uint64_t> addresses;
  for (const VcpuState& vcpu : state.vcpus) {
    addresses.insert(addresses.end(), {vcpu.registers.rip, vcpu.registers.rsp});
  }
  state.witnesses = take_witnesses(addresses, vm.memory());
  TRY(write_at(rest.fd(), encode_state(state), 0));
  // The state first: where that fails, the memory that was there stays. A crash in between leaves a
  // state that names other memory.
  TRY(PartialFile::publish_together({&rest, &memory}));
  return written;
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
