#pragma once

#include <cstddef>

#include "base/unique_fd.h"

namespace thaw::test {

/// Sees to it that the machine's pool of 2 MiB pages has some that are free while this lives, where
/// root may say so. The pool is one for all processes: another one waits until this is gone.
class HugePagePool {
 public:
  explicit HugePagePool(std::size_t wanted);
  HugePagePool(const HugePagePool&) = delete;
  HugePagePool& operator=(const HugePagePool&) = delete;
  ~HugePagePool();

  std::size_t free() const;

 private:
  const UniqueFd lock_;
  std::size_t before_ = 0;
};

}  // namespace thaw::test
