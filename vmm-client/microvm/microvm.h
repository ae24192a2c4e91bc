#pragma once

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "vmm-client/microvm/boot.h"
#include "vmm-client/microvm/guest_progress.h"
#include "vmm-client/microvm/memory.h"
#include "vmm-client/microvm/state.h"
#include "vmm-client/microvm/sys/vcpu.h"

namespace thaw {

/// A small VM of KVM: memory, vCPUs with a thread each while it runs, a serial port. It is made
/// empty, then gets something to run:
///
///   create(), add_vcpus(); load_payload() or load_state(); start(), pause(), start() ...
///
/// What comes before the semicolon needs no more than the VM's shape, so it may be done ahead of
/// time: with missing memory, which is handed over once it is known whose it will be.
///
/// One thread; progress() is for any.
class MicroVm final : private VcpuPorts {
 public:
  /// Without vCPUs. REQUIRES: check_memory_size() took the memory's size. kNotFound or kPermission
  /// without a usable /dev/kvm.
  static Result<std::unique_ptr<MicroVm>> create(MicroVmMemory memory, SerialSink sink,
                                                 DirtyLog log = DirtyLog::kOff);
  /// Pauses.
  ~MicroVm() override;

  /// Once. kInvalidArgument for none or more than limits::kMaxVcpus.
  Result<void> add_vcpus(std::size_t count);

  /// What the vCPUs are told of their processor. Loading does this too, unless it was done with the
  /// same entries: a VM that is made ahead of its state saves that time.
  Result<void> set_cpuid(const std::vector<kvm_cpuid_entry2>& cpuid);

  /// See MicroVmMemory::restore(): for memory that was missing when the VM was made.
  Result<void> restore_memory(const MemorySource& source, Deadline deadline, PhaseTimer& phases) {
    return memory_.restore(source, deadline, phases);
  }

  /// Writes the payload to memory, which is zero, and has the vCPUs begin in it.
  Result<void> load_payload(const PayloadOptions& options);
  /// Puts the vCPUs into a captured state; the memory has the content that belongs to it, or will
  /// have it when it is touched. Logs a warning if it was captured on another vendor's CPU.
  /// kInvalidArgument when the state is of another number of vCPUs or another size of memory,
  /// kChecksumMismatch when its witnesses are not in the memory.
  Result<void> load_state(const MicroVmState& state);

  /// Lets the vCPUs run. REQUIRES: something was loaded, and it is paused.
  Result<void> start();
  /// Returns when no vCPU runs, each between two instructions and with its port accesses complete.
  /// A vCPU stops also where it waits for a missing page, unless KVM itself reads that page, as it
  /// may the guest's page tables: then this waits for whoever fills it.
  void pause();
  /// All but the memory. REQUIRES: it is paused.
  Result<MicroVmState> state() const;

  /// REQUIRES for writing: it is paused.
  MutableByteSpan memory() const { return memory_.bytes(); }
  /// The pages of memory that the guest has written since the VM was made. REQUIRES: it was made
  /// with a dirty log, and is paused.
  Result<std::vector<bool>> changed_pages();
  GuestProgress& progress() { return progress_; }

 private:
  MicroVm(MicroVmMemory memory, Kvm kvm, UniqueFd vm, SerialSink sink, DirtyLog log)
      : memory_(std::move(memory)),
        kvm_(std::move(kvm)),
        vm_(std::move(vm)),
        progress_(std::move(sink)),
        dirty_log_(log) {}

  void run(Vcpu& vcpu);
  void on_serial(std::size_t vcpu, ByteSpan bytes) override { progress_.write(vcpu, bytes); }

  // Members are destroyed from the last to the first: the memory outlives the VM.
  MicroVmMemory memory_;
  const Kvm kvm_;
  const UniqueFd vm_;
  std::vector<Vcpu> vcpus_;
  std::vector<kvm_cpuid_entry2> cpuid_;  // empty: not set yet
  GuestProgress progress_;
  const DirtyLog dirty_log_;
  std::vector<std::uint64_t> dirty_;   // what KVM has told so far, as take_dirty_log() does
  std::vector<std::jthread> threads_;  // while it runs: one for each vCPU
};

}  // namespace thaw
