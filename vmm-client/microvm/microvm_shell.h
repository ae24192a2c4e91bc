#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "vmm-client/microvm/microvm.h"
#include "vmm-client/shell.h"

namespace thaw {

/// What microVMs have to have in common to be restored from one pool's shells.
struct MicroVmShape {
  ByteCount memory;
  std::size_t vcpus = 1;
  /// What the vCPUs are told of their processor. A state that says the same is loaded without it.
  std::vector<kvm_cpuid_entry2> cpuid{};
};

/// Of the microVMs that this state can be put into.
MicroVmShape shape_of(const MicroVmState& state);

/// A microVM that nobody has loaded yet: its memory missing, its vCPUs made.
class MicroVmShell final : public Shell {
 public:
  explicit MicroVmShell(std::unique_ptr<MicroVm> vm) : vm_(std::move(vm)) {}

  /// Brings the memory and loads the state: the phases "handover" or "contents", and "state". The
  /// errors of read_state_file(), restore_memory() and MicroVm::load_state(). It is left paused.
  Result<void> restore(const RestoreSource& source, Deadline deadline, PhaseTimer& phases) override;

  MicroVm& vm() { return *vm_; }

 private:
  std::unique_ptr<MicroVm> vm_;
};

/// Makes them. Immutable.
class MicroVmShellFactory final : public ShellFactory {
 public:
  /// Each VM gets the sink.
  MicroVmShellFactory(MicroVmShape shape, SerialSink sink)
      : shape_(std::move(shape)), sink_(std::move(sink)) {}

  /// The phases "memory", "vm" and "vcpus", and the errors of what they do.
  Result<std::unique_ptr<Shell>> create(PhaseTimer& phases) override;

 private:
  const MicroVmShape shape_;
  const SerialSink sink_;
};

}  // namespace thaw
