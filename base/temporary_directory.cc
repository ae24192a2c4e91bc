#include "base/temporary_directory.h"

#include <cstdlib>
#include <filesystem>
#include <utility>

namespace thaw {

Result<TemporaryDirectory> TemporaryDirectory::create(const std::string& name,
                                                      const std::string& parent) {
  std::error_code error;
  const std::filesystem::path in =
      parent.empty() ? std::filesystem::temp_directory_path(error) : std::filesystem::path(parent);
  if (error) return fail_errno("the directory for temporary files", error.value());
  std::string root = (in / (name + "-XXXXXX")).string();
  if (::mkdtemp(root.data()) == nullptr) return fail_errno(fmt::format("create {}", root));
  return TemporaryDirectory(std::move(root));
}

TemporaryDirectory::TemporaryDirectory(TemporaryDirectory&& other) noexcept
    : root_(std::exchange(other.root_, {})) {}

TemporaryDirectory::~TemporaryDirectory() {
  if (root_.empty()) return;
  std::error_code ignored;
  std::filesystem::remove_all(root_, ignored);
}

}  // namespace thaw
