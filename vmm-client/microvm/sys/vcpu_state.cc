#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/log.h"
#include "vmm-client/microvm/limits.h"
#include "vmm-client/microvm/sys/kvm_array.h"
#include "vmm-client/microvm/sys/vcpu.h"

namespace thaw {

namespace {

using Msrs = KvmArray<kvm_msrs, kvm_msr_entry>;

/// Whether this MSR of KVM's own was never used. KVM may refuse to write even its first value.
bool unused_by_guest(const kvm_msr_entry& msr) {
  return msr.data == 0 && msr.index >= 0x4b56'4d00 && msr.index <= 0x4b56'4dff;
}

/// Those of the MSRs that KVM gives, with their values. It stops at the first that it does not.
Result<std::vector<kvm_msr_entry>> read_msrs(const UniqueFd& vcpu,
                                             std::span<const std::uint32_t> msrs) {
  std::vector<kvm_msr_entry> read;
  while (!msrs.empty()) {
    std::vector<kvm_msr_entry> wanted;
    wanted.reserve(msrs.size());
    for (const std::uint32_t msr : msrs) wanted.push_back({.index = msr, .reserved = 0, .data = 0});
    Msrs batch(wanted);
    batch.header().nmsrs = static_cast<std::uint32_t>(wanted.size());
    const auto count = static_cast<std::size_t>(
        TRY(kvm_call(vcpu, KVM_GET_MSRS, &batch.header(), "KVM_GET_MSRS")));
    const std::vector<kvm_msr_entry> got = batch.first(count);
    read.insert(read.end(), got.begin(), got.end());
    msrs = msrs.subspan(std::min(count + 1, msrs.size()));
  }
  std::erase_if(read, unused_by_guest);
  return read;
}

}  // namespace

Result<void> Vcpu::set_cpuid(std::span<const kvm_cpuid_entry2> cpuid) {
  KvmArray<kvm_cpuid2, kvm_cpuid_entry2> entries(cpuid);
  entries.header().nent = static_cast<std::uint32_t>(cpuid.size());
  TRY(kvm_call(fd_, KVM_SET_CPUID2, &entries.header(), "KVM_SET_CPUID2"));
  return {};
}

Result<std::vector<kvm_cpuid_entry2>> Vcpu::cpuid() const {
  KvmArray<kvm_cpuid2, kvm_cpuid_entry2> entries(limits::kMaxCpuidEntries);
  entries.header().nent = limits::kMaxCpuidEntries;
  TRY(kvm_call(fd_, KVM_GET_CPUID2, &entries.header(), "KVM_GET_CPUID2"));
  return entries.first(entries.header().nent);
}

Result<std::uint32_t> Vcpu::tsc_khz() const {
  return static_cast<std::uint32_t>(TRY(kvm_call(fd_, KVM_GET_TSC_KHZ, 0ul, "KVM_GET_TSC_KHZ")));
}

Result<kvm_sregs> Vcpu::system() const {
  kvm_sregs system{};
  TRY(kvm_call(fd_, KVM_GET_SREGS, &system, "KVM_GET_SREGS"));
  return system;
}

Result<void> Vcpu::begin(const kvm_regs& registers, const kvm_sregs& system) {
  kvm_sregs to_system = system;
  kvm_regs to_registers = registers;
  TRY(kvm_call(fd_, KVM_SET_SREGS, &to_system, "KVM_SET_SREGS"));
  TRY(kvm_call(fd_, KVM_SET_REGS, &to_registers, "KVM_SET_REGS"));
  return {};
}

Result<VcpuState> Vcpu::state(std::span<const std::uint32_t> msrs, std::size_t xsave_bytes) const {
  if (xsave_bytes > limits::kMaxXsaveBytes) {
    return fail(ErrorCode::kTooLarge, "{} bytes of extended vCPU state", xsave_bytes);
  }
  VcpuState state;
  // The multiprocessing state comes first: asking for it may change events.
  TRY(kvm_call(fd_, KVM_GET_MP_STATE, &state.multiprocessing, "KVM_GET_MP_STATE"));
  TRY(kvm_call(fd_, KVM_GET_REGS, &state.registers, "KVM_GET_REGS"));
  state.system = TRY(system());
  state.xsave.resize(xsave_bytes);
  const bool fixed_size = xsave_bytes == limits::kMinXsaveBytes;
  TRY(kvm_call(fd_, fixed_size ? KVM_GET_XSAVE : KVM_GET_XSAVE2, state.xsave.data(),
               "KVM_GET_XSAVE"));
  kvm_xcrs xcrs{};
  TRY(kvm_call(fd_, KVM_GET_XCRS, &xcrs, "KVM_GET_XCRS"));
  CHECK(xcrs.nr_xcrs <= std::size(xcrs.xcrs));
  state.xcrs.assign(xcrs.xcrs, xcrs.xcrs + xcrs.nr_xcrs);
  state.msrs = TRY(read_msrs(fd_, msrs));
  TRY(kvm_call(fd_, KVM_GET_VCPU_EVENTS, &state.events, "KVM_GET_VCPU_EVENTS"));
  TRY(kvm_call(fd_, KVM_GET_DEBUGREGS, &state.debug, "KVM_GET_DEBUGREGS"));
  return state;
}

Result<void> Vcpu::set_msrs(std::span<const kvm_msr_entry> msrs) {
  while (!msrs.empty()) {
    Msrs batch(msrs);
    batch.header().nmsrs = static_cast<std::uint32_t>(msrs.size());
    const auto count =
        static_cast<std::size_t>(TRY(kvm_call(fd_, KVM_SET_MSRS, &batch.header(), "KVM_SET_MSRS")));
    if (count < msrs.size()) {
      log_warning("vCPU {}: KVM does not take {:#x} for MSR {:#x}", number_,
                  std::uint64_t{msrs[count].data}, std::uint32_t{msrs[count].index});
    }
    msrs = msrs.subspan(std::min(count + 1, msrs.size()));
  }
  return {};
}

Result<void> Vcpu::check_time_stamp(std::span<const kvm_msr_entry> msrs) const {
  constexpr std::array kCounter{std::uint32_t{0x10}};  // IA32_TIME_STAMP_COUNTER
  const auto wanted = std::ranges::find(msrs, kCounter[0], &kvm_msr_entry::index);
  if (wanted == msrs.end()) return {};
  const std::vector<kvm_msr_entry> now = TRY(read_msrs(fd_, kCounter));
  if (now.empty() || now[0].data < wanted->data) {
    log_warning("vCPU {}: this KVM sets no time stamp counter; the guest's goes back", number_);
  }
  return {};
}

Result<void> Vcpu::set_state(const VcpuState& state, std::size_t xsave_bytes) {
  VcpuState to = state;
  TRY(kvm_call(fd_, KVM_SET_SREGS, &to.system, "KVM_SET_SREGS"));
  kvm_xcrs xcrs{};
  if (to.xcrs.size() > std::size(xcrs.xcrs)) {
    return fail(ErrorCode::kUnsupported, "{} extended control registers", to.xcrs.size());
  }
  xcrs.nr_xcrs = static_cast<std::uint32_t>(to.xcrs.size());
  std::ranges::copy(to.xcrs, xcrs.xcrs);
  TRY(kvm_call(fd_, KVM_SET_XCRS, &xcrs, "KVM_SET_XCRS"));
  // KVM reads as much as its own vCPUs have; what a larger one had beyond may not be dropped.
  const auto beyond = to.xsave.begin() + std::ptrdiff_t(std::min(xsave_bytes, to.xsave.size()));
  if (std::any_of(beyond, to.xsave.end(), [](std::byte b) { return b != std::byte{0}; })) {
    return fail(ErrorCode::kUnsupported, "vCPU state of {} bytes, this host's have {}",
                to.xsave.size(), xsave_bytes);
  }
  to.xsave.resize(xsave_bytes);
  TRY(kvm_call(fd_, KVM_SET_XSAVE, to.xsave.data(), "KVM_SET_XSAVE"));
  TRY(set_msrs(to.msrs));
  TRY(check_time_stamp(to.msrs));
  TRY(kvm_call(fd_, KVM_SET_REGS, &to.registers, "KVM_SET_REGS"));
  TRY(kvm_call(fd_, KVM_SET_VCPU_EVENTS, &to.events, "KVM_SET_VCPU_EVENTS"));
  TRY(kvm_call(fd_, KVM_SET_DEBUGREGS, &to.debug, "KVM_SET_DEBUGREGS"));
  TRY(kvm_call(fd_, KVM_SET_MP_STATE, &to.multiprocessing, "KVM_SET_MP_STATE"));
  return {};
}

}  // namespace thaw
