#include "base/memory_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/file.h"

namespace thaw {

Result<UniqueFd> create_memory_file(const std::string& what, ByteCount size) {
  UniqueFd file(::memfd_create(what.substr(0, 200).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file.valid()) return fail_errno("memfd_create");
  if (::fchmod(file.get(), S_IRUSR) != 0) return fail_errno("fchmod of a memory file");
  TRY(resize_file(file, size));
  return file;
}

Result<UniqueFd> seal_memory_file(const UniqueFd& file) {
  constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  if (::fcntl(file.get(), F_ADD_SEALS, kSeals) != 0) return fail_errno("F_ADD_SEALS");
  return open_for_reading(fmt::format("/proc/self/fd/{}", file.get()));
}

bool keeps_its_size(const UniqueFd& file) {
  const int seals = ::fcntl(file.get(), F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_SHRINK) != 0;
}

Result<ByteCount> allocated_bytes(const UniqueFd& file) {
  constexpr std::uint64_t kBlockBytes = 512;  // of st_blocks, whatever the file system
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return fail_errno("fstat");
  return ByteCount{static_cast<std::uint64_t>(status.st_blocks) * kBlockBytes};
}

}  // namespace thaw
