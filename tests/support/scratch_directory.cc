#include "tests/support/scratch_directory.h"

#include <cstdlib>

#include "base/check.h"

namespace thaw::test {

ScratchDirectory::ScratchDirectory(const std::string& parent) {
  const std::filesystem::path in =
      parent.empty() ? std::filesystem::temp_directory_path() : std::filesystem::path(parent);
  std::string name = (in / "thaw-test-XXXXXX").string();
  CHECK(::mkdtemp(name.data()) != nullptr);
  root_ = name;
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(root_, ignored);
}

}  // namespace thaw::test
