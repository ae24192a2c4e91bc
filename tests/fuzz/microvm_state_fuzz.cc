#include "tests/fuzz/input.h"
#include "vmm-client/microvm/limits.h"
#include "vmm-client/microvm/state.h"

namespace thaw {
namespace {

void run(ByteSpan input) {
  const Bytes sealed = fuzz::sealed_input(fuzz::kMicroVmState, input);
  const auto state = decode_state(sealed);
  if (!state) return;
  CHECK(check_memory_size(state->memory));
  CHECK(state->cpuid.size() <= limits::kMaxCpuidEntries);
  CHECK(state->witnesses.size() <= limits::kMaxWitnesses);
  for (const PageWitness& witness : state->witnesses) {
    CHECK(witness.page.value < pages_for(state->memory).value);
  }
  CHECK(!state->vcpus.empty() && state->vcpus.size() <= limits::kMaxVcpus);
  for (const VcpuState& vcpu : state->vcpus) {
    CHECK(vcpu.xsave.size() >= limits::kMinXsaveBytes);
    CHECK(vcpu.xsave.size() <= limits::kMaxXsaveBytes);
    CHECK(vcpu.xcrs.size() <= limits::kMaxXcrs && vcpu.msrs.size() <= limits::kMaxMsrs);
  }
  // There is one form of each state.
  CHECK(open_envelope(fuzz::kMicroVmState, encode_state(*state)).value() ==
        open_envelope(fuzz::kMicroVmState, sealed).value());
}

}  // namespace
}  // namespace thaw

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  thaw::run(thaw::fuzz::as_input(data, size));
  return 0;
}
