#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <pthread.h>

#include "base/error.h"
#include "base/unique_fd.h"
#include "vmm-client/microvm/state.h"
#include "vmm-client/microvm/sys/kvm.h"

namespace thaw {

/// What a vCPU's port accesses lead to. Called on the thread that runs it.
class VcpuPorts {
 public:
  virtual ~VcpuPorts() = default;
  virtual void on_serial(std::size_t vcpu, ByteSpan bytes) = 0;
};

/// Why a vCPU does not run any more.
struct VcpuEnd {
  enum class Reason { kStopped, kExited } reason;
  std::uint32_t code = 0;  // with which the guest exited
};

/// A vCPU of KVM. One thread at a time; request_stop() from any.
class Vcpu {
 public:
  /// Creates the vCPU with this number in the VM.
  static Result<Vcpu> create(const Kvm& kvm, const UniqueFd& vm, std::size_t number);
  Vcpu(Vcpu&& other) noexcept;
  Vcpu& operator=(Vcpu&&) = delete;
  ~Vcpu();

  std::size_t number() const { return number_; }

  /// Before it runs for the first time.
  Result<void> set_cpuid(std::span<const kvm_cpuid_entry2> cpuid);
  Result<std::vector<kvm_cpuid_entry2>> cpuid() const;
  Result<std::uint32_t> tsc_khz() const;

  /// Where a VM begins that was never captured.
  Result<void> begin(const kvm_regs& registers, const kvm_sregs& system);
  Result<kvm_sregs> system() const;

  /// All but the serial cursor. MSRs that this KVM does not give are left out.
  Result<VcpuState> state(std::span<const std::uint32_t> msrs, std::size_t xsave_bytes) const;
  /// After set_cpuid(). MSRs that this KVM does not take are named in the log, and a time stamp
  /// counter that it takes without effect: not every KVM can set that.
  Result<void> set_state(const VcpuState& state, std::size_t xsave_bytes);

  /// Runs until the guest exits or request_stop(); then no port access is under way. A guest that
  /// breaks down, and whatever KVM cannot do, is an error.
  Result<VcpuEnd> run(VcpuPorts& ports);

  /// Makes run() return soon. `thread` is in run(), or about to be: a signal gets it out of KVM.
  void request_stop(pthread_t thread);
  /// Forgets a stop, so that run() may be called again.
  void clear_stop();

 private:
  Vcpu(std::size_t number, UniqueFd fd, kvm_run* shared, std::size_t shared_bytes)
      : number_(number), fd_(std::move(fd)), shared_(shared), shared_bytes_(shared_bytes) {}

  std::optional<VcpuEnd> handle_port(VcpuPorts& ports);
  Error broken_down() const;
  Result<void> set_msrs(std::span<const kvm_msr_entry> msrs);
  Result<void> check_time_stamp(std::span<const kvm_msr_entry> msrs) const;
  bool stop_requested() const;

  std::size_t number_;
  UniqueFd fd_;
  kvm_run* shared_;  // mapped
  std::size_t shared_bytes_;
};

/// Has the signal of Vcpu::request_stop() do nothing but interrupt. For the whole process.
Result<void> allow_stop_signal();

}  // namespace thaw
