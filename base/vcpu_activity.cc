#include "base/vcpu_activity.h"

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <sstream>
#include <string>

#include <linux/kvm.h>
#include <sys/syscall.h>

#include "base/file.h"

namespace thaw {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostStatusBytes = 4096;
constexpr std::size_t kMostEntries = 4096;  // threads, and descriptors, that are looked at
/// proc(5): of the fields behind the name in parentheses, that of guest_time.
constexpr int kGuestTimeField = 43 - 2;

bool has_guest_time(const std::string& process) {
  const auto text = read_text_file(process + "/stat", kMostStatusBytes);
  if (!text || text->rfind(')') == text->npos) return false;
  std::istringstream fields(text->substr(text->rfind(')') + 1));
  std::string field;
  for (int i = 0; i < kGuestTimeField; ++i) fields >> field;
  return fields && field != "0";
}

/// Whether `is_it(path)` holds for an entry of a directory.
template <typename Predicate>
bool any_entry(const std::string& directory, Predicate is_it) {
  std::error_code error;
  fs::directory_iterator each(directory, error);
  for (std::size_t i = 0; !error && each != fs::directory_iterator() && i < kMostEntries; ++i) {
    if (is_it(each->path())) return true;
    each.increment(error);
  }
  return false;
}

bool is_vcpu(const fs::path& descriptor) {
  std::error_code error;
  return fs::read_symlink(descriptor, error).string().starts_with("anon_inode:kvm-vcpu");
}

}  // namespace

VcpuActivity vcpu_activity(pid_t pid) {
  const std::string process = "/proc/" + std::to_string(pid);
  if (has_guest_time(process)) return VcpuActivity::kHasRun;
  bool readable = false;
  const bool runs = any_entry(process + "/task", [&](const fs::path& thread) {
    // "number argument argument ...", the arguments hexadecimal; "running" for one on a CPU.
    const auto text = read_text_file((thread / "syscall").string(), kMostStatusBytes);
    if (!text) return false;
    readable = true;
    long number = 0;
    std::uint64_t request = 0;
    return std::sscanf(text->c_str(), "%ld %*x %lx", &number, &request) == 2 &&
           number == SYS_ioctl && request == KVM_RUN;
  });
  if (runs) return VcpuActivity::kHasRun;
  const bool has_vcpus = readable && any_entry(process + "/fd", is_vcpu);
  return has_vcpus ? VcpuActivity::kNotYet : VcpuActivity::kUnknown;
}

}  // namespace thaw
