#include "faulthandler/own_thread.h"

#include <poll.h>

#include "base/cpu.h"
#include "base/log.h"

namespace thaw {

void OwnThread::start() {
  if (thread_ == nullptr && !refused_) {
    auto thread = WorkerPool::create(1);
    if (thread) {
      thread_ = *std::move(thread);
    } else {
      refused_ = true;
      log_warning("no thread for a session whose memory is slow: {}", thread.error().message());
    }
  }
  if (thread_ == nullptr) {
    work_();
    return done_();
  }
  task_.start(*thread_);
  loop_.poll(thread_->wakeup(), POLLIN, watching_);
}

void OwnThread::run() {
  // Otherwise it would compete with the loop as an equal, on the loop's CPU.
  if (!std::exchange(ordinary_, true)) give_up_precedence(CpuSet().set());
  work_();
}

void OwnThread::on_wakeup(int result) {
  if (result >= 0) thread_->finish_done();
}

}  // namespace thaw
