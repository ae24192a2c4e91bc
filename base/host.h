#pragma once

#include <string>

#include "base/types.h"

namespace thaw {

/// The vendor of this host's CPU, as CPUID names it; empty where there is no CPUID.
std::string cpu_vendor();

/// What this host has in all.
ByteCount physical_memory();

/// What this process may use in all: what the host has, or less when its cgroup allows less.
ByteCount usable_memory();

}  // namespace thaw
