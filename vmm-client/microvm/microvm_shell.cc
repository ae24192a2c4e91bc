#include "vmm-client/microvm/microvm_shell.h"

#include "vmm-client/microvm/capture.h"

namespace thaw {

MicroVmShape shape_of(const MicroVmState& state) {
  return {.memory = state.memory, .vcpus = state.vcpus.size(), .cpuid = state.cpuid};
}

Result<void> MicroVmShell::restore(const RestoreSource& source, Deadline deadline,
                                   PhaseTimer& phases) {
  TRY(vm_->restore_memory(source.memory, deadline, phases));
  phases.begin("state");
  return vm_->load_state(TRY(read_state_file(source.state_path)));
}

Result<std::unique_ptr<Shell>> MicroVmShellFactory::create(PhaseTimer& phases) {
  phases.begin("memory");
  TRY(check_memory_size(shape_.memory));
  MicroVmMemory memory = TRY(MicroVmMemory::missing(shape_.memory));
  phases.begin("vm");
  auto vm = TRY(MicroVm::create(std::move(memory), sink_));
  phases.begin("vcpus");
  TRY(vm->add_vcpus(shape_.vcpus));
  if (!shape_.cpuid.empty()) TRY(vm->set_cpuid(shape_.cpuid));
  return std::make_unique<MicroVmShell>(std::move(vm));
}

}  // namespace thaw
