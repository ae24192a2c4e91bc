#include "faulthandler/sys/create_loop.h"

#include "base/log.h"
#include "faulthandler/sys/epoll_loop.h"
#include "faulthandler/sys/uring_loop.h"

namespace thaw {

Result<std::unique_ptr<Loop>> create_loop() {
  auto loop = create_uring_loop(RingFeatures::kLinux61);
  if (loop) return loop;
  log_warning("epoll is used, since io_uring cannot be had: {}", loop.error().message());
  return create_epoll_loop();
}

}  // namespace thaw
