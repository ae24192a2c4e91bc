#include "vmm-client/microvm/microvm.h"

#include <algorithm>
#include <functional>
#include <string_view>

#include "base/check.h"
#include "base/host.h"
#include "base/log.h"
#include "vmm-client/microvm/limits.h"

namespace thaw {

namespace {

CpuVendor host_cpu_vendor() {
  CpuVendor vendor{};
  std::ranges::copy(cpu_vendor().substr(0, vendor.size()), vendor.begin());
  return vendor;
}

std::string_view as_text(const CpuVendor& vendor) { return {vendor.data(), vendor.size()}; }

ByteSpan as_bytes(const std::vector<kvm_cpuid_entry2>& cpuid) {
  return std::as_bytes(std::span(cpuid));
}

}  // namespace

Result<std::unique_ptr<MicroVm>> MicroVm::create(MicroVmMemory memory, SerialSink sink,
                                                 DirtyLog log) {
  Kvm kvm = TRY(Kvm::open());
  UniqueFd vm = TRY(create_vm(kvm, memory.bytes(), log));
  return std::unique_ptr<MicroVm>(
      new MicroVm(std::move(memory), std::move(kvm), std::move(vm), std::move(sink), log));
}

MicroVm::~MicroVm() { pause(); }

Result<void> MicroVm::add_vcpus(std::size_t count) {
  CHECK(vcpus_.empty());
  if (count == 0 || count > limits::kMaxVcpus) {
    return fail(ErrorCode::kInvalidArgument, "{} vCPUs, not 1 to {}", count, limits::kMaxVcpus);
  }
  for (std::size_t i = 0; i < count; ++i) vcpus_.push_back(TRY(Vcpu::create(kvm_, vm_, i)));
  return {};
}

Result<void> MicroVm::set_cpuid(const std::vector<kvm_cpuid_entry2>& cpuid) {
  if (std::ranges::equal(as_bytes(cpuid), as_bytes(cpuid_))) return {};
  for (Vcpu& vcpu : vcpus_) TRY(vcpu.set_cpuid(cpuid));
  cpuid_ = cpuid;
  return {};
}

Result<void> MicroVm::load_payload(const PayloadOptions& options) {
  TRY(write_boot_memory(memory_.bytes(), options));
  TRY(set_cpuid(TRY(kvm_.supported_cpuid())));
  for (Vcpu& vcpu : vcpus_) {
    TRY(vcpu.begin(boot_registers(vcpu.number(), vcpus_.size()), boot_system(TRY(vcpu.system()))));
  }
  progress_.begin(0, std::vector<SerialCursor>(vcpus_.size()));
  return {};
}

Result<void> MicroVm::load_state(const MicroVmState& state) {
  if (state.vcpus.size() != vcpus_.size() || state.memory.value != memory_.bytes().size()) {
    return fail(ErrorCode::kInvalidArgument,
                "the state is of a VM with {} vCPUs and {} bytes, not {} and {}",
                state.vcpus.size(), state.memory.value, vcpus_.size(), memory_.bytes().size());
  }
  if (const CpuVendor host = host_cpu_vendor(); host != state.cpu_vendor) {
    log_warning("the state was captured on a CPU of {}, this one is of {}",
                as_text(state.cpu_vendor), as_text(host));
  }
  TRY(check_witnesses(state.witnesses, memory_.bytes()));
  const std::size_t xsave = TRY(xsave_bytes(vm_));
  std::vector<SerialCursor> cursors;
  TRY(set_vm_clock(vm_, state.clock_ns));
  TRY(set_cpuid(state.cpuid));
  for (std::size_t i = 0; i < vcpus_.size(); ++i) {
    TRY(vcpus_[i].set_state(state.vcpus[i], xsave));
    cursors.push_back(state.vcpus[i].serial);
  }
  if (const auto khz = TRY(vcpus_.front().tsc_khz()); khz != state.tsc_khz) {
    log_warning("the guest's TSC had {} kHz, this host's has {}", state.tsc_khz, khz);
  }
  progress_.begin(state.serial_bytes, cursors);
  return {};
}

Result<void> MicroVm::start() {
  CHECK(threads_.empty());
  TRY(allow_stop_signal());
  for (Vcpu& vcpu : vcpus_) {
    vcpu.clear_stop();
    threads_.emplace_back([this, &vcpu] { run(vcpu); });
  }
  return {};
}

void MicroVm::pause() {
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    vcpus_[i].request_stop(threads_[i].native_handle());
  }
  threads_.clear();
}

Result<std::vector<bool>> MicroVm::changed_pages() {
  CHECK(threads_.empty() && dirty_log_ == DirtyLog::kOn);
  const PageCount pages = pages_for({memory_.bytes().size()});
  const std::vector<std::uint64_t> news = TRY(take_dirty_log(vm_, pages));
  dirty_.resize(news.size());
  std::ranges::transform(dirty_, news, dirty_.begin(), std::bit_or());
  std::vector<bool> changed(pages.value);
  for (std::size_t page = 0; page < changed.size(); ++page) {
    changed[page] = (dirty_[page / 64] >> page % 64 & 1) != 0;
  }
  return changed;
}

void MicroVm::run(Vcpu& vcpu) {
  const auto end = vcpu.run(*this);
  if (!end) return progress_.fail_with(end.error());
  if (end->reason == VcpuEnd::Reason::kExited) progress_.exit(end->code);
}

Result<MicroVmState> MicroVm::state() const {
  CHECK(threads_.empty() && !vcpus_.empty());
  const std::vector<std::uint32_t> msrs = TRY(kvm_.saved_msrs());
  const std::size_t xsave = TRY(xsave_bytes(vm_));
  MicroVmState state;
  state.memory = {memory_.bytes().size()};
  state.serial_bytes = progress_.serial_bytes();
  state.clock_ns = TRY(vm_clock(vm_));
  state.tsc_khz = TRY(vcpus_.front().tsc_khz());
  state.cpu_vendor = host_cpu_vendor();
  state.cpuid = TRY(vcpus_.front().cpuid());
  for (const Vcpu& vcpu : vcpus_) {
    state.vcpus.push_back(TRY(vcpu.state(msrs, xsave)));
    state.vcpus.back().serial = progress_.cursor(vcpu.number());
  }
  return state;
}

}  // namespace thaw
