#pragma once

#include <cstddef>

namespace thaw {

/// Raises this process's limit of open descriptors as far as it may. Returns what it is then: the
/// limit as it was where the system does not let it.
std::size_t raise_descriptor_limit();

}  // namespace thaw
