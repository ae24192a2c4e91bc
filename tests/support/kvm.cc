#include "tests/support/kvm.h"

#include <sstream>

#include "vmm-client/microvm/sys/kvm.h"

namespace thaw::test {

std::optional<std::string> why_no_kvm() {
  const auto kvm = Kvm::open();
  if (kvm) return std::nullopt;
  return "no KVM here: " + kvm.error().message();
}

std::map<std::string, std::vector<std::string>> lines_by_vcpu(const std::string& serial,
                                                              std::size_t most) {
  std::map<std::string, std::vector<std::string>> lines;
  std::istringstream from(serial);
  for (std::string line; std::getline(from, line) && !from.eof();) {
    auto& of_vcpu = lines[line.substr(0, line.find(" round"))];
    if (of_vcpu.size() < most) of_vcpu.push_back(line);
  }
  return lines;
}

}  // namespace thaw::test
