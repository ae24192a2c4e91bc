#pragma once

#include <string>

#include "base/types.h"

namespace thaw {

/// The vendor of this host's CPU, as /proc/cpuinfo names it; empty when it does not.
std::string cpu_vendor();

/// What this host has in all.
ByteCount physical_memory();

}  // namespace thaw
