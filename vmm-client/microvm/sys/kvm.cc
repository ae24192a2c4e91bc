#include "vmm-client/microvm/sys/kvm.h"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <sys/ioctl.h>

#include "vmm-client/microvm/limits.h"
#include "vmm-client/microvm/sys/kvm_array.h"

namespace thaw {

namespace {

constexpr std::uint32_t kMemorySlot = 0;
constexpr int kNeeded[] = {KVM_CAP_USER_MEMORY,    KVM_CAP_EXT_CPUID,    KVM_CAP_XSAVE,
                           KVM_CAP_XCRS,           KVM_CAP_VCPU_EVENTS,  KVM_CAP_DEBUGREGS,
                           KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_ADJUST_CLOCK, KVM_CAP_MP_STATE,
                           KVM_CAP_GET_TSC_KHZ};

}  // namespace

Result<int> kvm_call(const UniqueFd& fd, unsigned long request, unsigned long argument,
                     const char* what) {
  while (true) {
    const int value = ::ioctl(fd.get(), request, argument);
    if (value >= 0) return value;
    if (errno != EINTR) return fail_errno(what);
  }
}

Result<Kvm> Kvm::open() {
  UniqueFd fd(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!fd.valid()) return fail_errno("open /dev/kvm");
  if (TRY(kvm_call(fd, KVM_GET_API_VERSION, 0ul, "KVM_GET_API_VERSION")) != KVM_API_VERSION) {
    return fail(ErrorCode::kUnsupported, "a KVM of another kind");
  }
  for (const int needed : kNeeded) {
    const auto number = static_cast<unsigned long>(needed);
    if (TRY(kvm_call(fd, KVM_CHECK_EXTENSION, number, "KVM_CHECK_EXTENSION")) == 0) {
      return fail(ErrorCode::kUnsupported, "KVM lacks its extension {}", needed);
    }
  }
  const int bytes = TRY(kvm_call(fd, KVM_GET_VCPU_MMAP_SIZE, 0ul, "KVM_GET_VCPU_MMAP_SIZE"));
  return Kvm(std::move(fd), static_cast<std::size_t>(bytes));
}

Result<std::vector<kvm_cpuid_entry2>> Kvm::supported_cpuid() const {
  KvmArray<kvm_cpuid2, kvm_cpuid_entry2> supported(limits::kMaxCpuidEntries);
  supported.header().nent = limits::kMaxCpuidEntries;
  TRY(kvm_call(fd_, KVM_GET_SUPPORTED_CPUID, &supported.header(), "KVM_GET_SUPPORTED_CPUID"));
  return supported.first(supported.header().nent);
}

Result<std::vector<std::uint32_t>> Kvm::saved_msrs() const {
  KvmArray<kvm_msr_list, std::uint32_t> list(limits::kMaxMsrs);
  list.header().nmsrs = limits::kMaxMsrs;
  TRY(kvm_call(fd_, KVM_GET_MSR_INDEX_LIST, &list.header(), "KVM_GET_MSR_INDEX_LIST"));
  return list.first(list.header().nmsrs);
}

Result<UniqueFd> create_vm(const Kvm& kvm, MutableByteSpan memory, DirtyLog log) {
  UniqueFd vm(TRY(kvm_call(kvm.fd(), KVM_CREATE_VM, 0ul, "KVM_CREATE_VM")));
  kvm_userspace_memory_region region{};
  region.slot = kMemorySlot;
  region.flags = log == DirtyLog::kOn ? KVM_MEM_LOG_DIRTY_PAGES : 0;
  region.memory_size = memory.size();
  // SAFETY: an address as a number; the caller keeps the memory as long as the VM.
  region.userspace_addr = reinterpret_cast<std::uint64_t>(memory.data());
  TRY(kvm_call(vm, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION"));
  return vm;
}

Result<std::vector<std::uint64_t>> take_dirty_log(const UniqueFd& vm, PageCount pages) {
  std::vector<std::uint64_t> words((pages.value + 63) / 64);
  kvm_dirty_log log{};
  log.slot = kMemorySlot;
  log.dirty_bitmap = words.data();
  TRY(kvm_call(vm, KVM_GET_DIRTY_LOG, &log, "KVM_GET_DIRTY_LOG"));
  return words;
}

Result<std::uint64_t> vm_clock(const UniqueFd& vm) {
  kvm_clock_data clock{};
  TRY(kvm_call(vm, KVM_GET_CLOCK, &clock, "KVM_GET_CLOCK"));
  return clock.clock;
}

Result<void> set_vm_clock(const UniqueFd& vm, std::uint64_t clock_ns) {
  kvm_clock_data clock{};
  clock.clock = clock_ns;
  TRY(kvm_call(vm, KVM_SET_CLOCK, &clock, "KVM_SET_CLOCK"));
  return {};
}

Result<std::size_t> xsave_bytes(const UniqueFd& vm) {
  constexpr auto kXsave2 = static_cast<unsigned long>(KVM_CAP_XSAVE2);
  const int bytes = TRY(kvm_call(vm, KVM_CHECK_EXTENSION, kXsave2, "KVM_CHECK_EXTENSION"));
  // A KVM without it has the fixed size of KVM_GET_XSAVE.
  return std::max(static_cast<std::size_t>(bytes), limits::kMinXsaveBytes);
}

}  // namespace thaw
