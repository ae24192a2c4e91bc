#pragma once

#include "vmm-client/microvm/state.h"

namespace thaw::test {

/// The state of a microVM that never was, with a value of its own in every field.
/// REQUIRES: at most limits::kMaxVcpus vCPUs.
MicroVmState sample_microvm_state(std::size_t vcpus);

}  // namespace thaw::test
