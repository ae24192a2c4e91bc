#pragma once

#include <optional>
#include <string>

#include "base/types.h"

namespace thaw {

/// The vendor of this host's CPU, as CPUID names it; empty where there is no CPUID.
std::string cpu_vendor();

/// What this host has in all.
ByteCount physical_memory();

/// The least that the cgroup at `path` and those above it may use, in the hierarchy (version 2)
/// that is mounted at `mount`. Nothing when none of them has a limit.
std::optional<ByteCount> cgroup_memory_limit(const std::string& mount, const std::string& path);

/// What this process may use in all: what the host has, or less when its cgroup allows less.
ByteCount usable_memory();

}  // namespace thaw
