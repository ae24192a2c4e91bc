#include "tests/support/huge_page_pool.h"

#include <filesystem>
#include <fstream>
#include <string>

#include <fcntl.h>
#include <sys/file.h>

#include "base/check.h"

namespace thaw::test {

namespace {
const std::string kPool = "/sys/kernel/mm/hugepages/hugepages-2048kB/";
}  // namespace

HugePagePool::HugePagePool(std::size_t wanted)
    : lock_(::open((std::filesystem::temp_directory_path() / "thaw-test-huge-pages").c_str(),
                   O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
  CHECK(lock_.valid() && ::flock(lock_.get(), LOCK_EX) == 0);
  std::ifstream(kPool + "nr_hugepages") >> before_;
  if (free() < wanted) std::ofstream(kPool + "nr_hugepages") << before_ + wanted;
}

HugePagePool::~HugePagePool() { std::ofstream(kPool + "nr_hugepages") << before_; }

std::size_t HugePagePool::free() const {
  std::size_t pages = 0;
  std::ifstream(kPool + "free_hugepages") >> pages;
  return pages;
}

}  // namespace thaw::test
