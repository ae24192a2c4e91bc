#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace thaw::test {

/// Why no microVM can run here, for people; nothing if one can.
std::optional<std::string> why_no_kvm();

/// The first lines on a microVM's serial port of each vCPU that wrote any, at most so many. One
/// that is not finished is left out.
std::map<std::string, std::vector<std::string>> lines_by_vcpu(const std::string& serial,
                                                              std::size_t most);

}  // namespace thaw::test
