#pragma once

#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "vmm-client/microvm/kvm_abi.h"
#include "vmm-client/microvm/state.h"

namespace thaw {

/// An ioctl on KVM, a VM or a vCPU, retried after EINTR; its value. `what` names it in the error.
Result<int> kvm_call(const UniqueFd& fd, unsigned long request, unsigned long argument,
                     const char* what);
template <typename Structure>
Result<int> kvm_call(const UniqueFd& fd, unsigned long request, Structure* argument,
                     const char* what) {
  // SAFETY: each caller passes the structure that its request is defined with.
  return kvm_call(fd, request, reinterpret_cast<unsigned long>(argument), what);
}

/// What a host's KVM can do. Immutable.
class Kvm {
 public:
  /// kNotFound or kPermission without a usable /dev/kvm, kUnsupported when it lacks something.
  static Result<Kvm> open();

  const UniqueFd& fd() const { return fd_; }
  /// Of the structure that a vCPU shares with KVM.
  std::size_t run_bytes() const { return run_bytes_; }
  /// What a vCPU may be told that its processor can do.
  Result<std::vector<kvm_cpuid_entry2>> supported_cpuid() const;
  /// The MSRs that make up a vCPU's state.
  Result<std::vector<std::uint32_t>> saved_msrs() const;

 private:
  Kvm(UniqueFd fd, std::size_t run_bytes) : fd_(std::move(fd)), run_bytes_(run_bytes) {}

  UniqueFd fd_;
  std::size_t run_bytes_;
};

/// Whether KVM notes which pages of memory its guest writes.
enum class DirtyLog { kOff, kOn };

/// A VM without vCPUs, with `memory` from guest-physical address 0 on. The memory must outlive it.
Result<UniqueFd> create_vm(const Kvm& kvm, MutableByteSpan memory, DirtyLog log);

/// The pages of its memory, `pages` in all, that a VM with a dirty log has written since this was
/// last asked: page n is bit n % 64 of word n / 64.
Result<std::vector<std::uint64_t>> take_dirty_log(const UniqueFd& vm, PageCount pages);

/// KVM's clock of a VM, in nanoseconds.
Result<std::uint64_t> vm_clock(const UniqueFd& vm);
Result<void> set_vm_clock(const UniqueFd& vm, std::uint64_t clock_ns);

/// Bytes that the extended state of this VM's vCPUs takes.
Result<std::size_t> xsave_bytes(const UniqueFd& vm);

}  // namespace thaw
