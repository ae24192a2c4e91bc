#include "tests/support/sample_microvm.h"

#include <algorithm>

#include "vmm-client/microvm/limits.h"

namespace thaw::test {

namespace {

/// Different bytes, the same at every run.
class Bytewise {
 public:
  template <typename T>
  void fill(T& value) {
    for (std::byte& byte : std::as_writable_bytes(std::span(&value, 1))) byte = next();
  }
  std::byte next() { return static_cast<std::byte>((state_ = state_ * 29 + 7) >> 3); }

 private:
  std::uint32_t state_ = 1;
};

VcpuState sample_vcpu(Bytewise& bytes) {
  VcpuState vcpu;
  bytes.fill(vcpu.registers);
  bytes.fill(vcpu.system);
  vcpu.xsave.resize(limits::kMinXsaveBytes);
  std::ranges::generate(vcpu.xsave, [&] { return bytes.next(); });
  vcpu.xcrs.push_back({.xcr = 0, .reserved = 0, .value = 7});
  vcpu.msrs.push_back({.index = 0x10, .reserved = 0, .data = 123'456'789});
  vcpu.msrs.push_back({.index = 0xc000'0102, .reserved = 0, .data = 1u << 31});
  bytes.fill(vcpu.events);
  bytes.fill(vcpu.debug);
  bytes.fill(vcpu.multiprocessing);
  bytes.fill(vcpu.serial);
  return vcpu;
}

}  // namespace

MicroVmState sample_microvm_state(std::size_t vcpus) {
  Bytewise bytes;
  MicroVmState state{.memory = {64u << 20},
                     .serial_bytes = 1'000'001,
                     .clock_ns = 987'654'321,
                     .tsc_khz = 2'500'000,
                     .cpu_vendor = {},
                     .content = 0x0123'4567'89ab'cdef,
                     .witnesses = {{{256}, 11}, {{16'383}, 12}},
                     .cpuid = std::vector<kvm_cpuid_entry2>(2),
                     .vcpus = {}};
  std::ranges::copy(std::string_view("GenuineIntel"), state.cpu_vendor.begin());
  state.cpuid[0].eax = 1;
  state.cpuid[1] = {.function = 7,
                    .index = 1,
                    .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                    .eax = 2,
                    .ebx = 3,
                    .ecx = 4,
                    .edx = 5,
                    .padding = {}};
  for (std::size_t i = 0; i < vcpus; ++i) state.vcpus.push_back(sample_vcpu(bytes));
  return state;
}

}  // namespace thaw::test
