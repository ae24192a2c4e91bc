#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/unique_fd.h"
#include "faulthandler/errands.h"

namespace thaw {

/// Does the errands of a supervisor's handlers, on threads of its own: what a VMM holds up is one
/// of them, and never the loop that watches the handler. Each session has one at a time, whatever
/// handlers ask for. They are ordinary threads, since vCPUs should not wait for a look at another
/// VM. All but the threads is for the loop's thread.
class ErrandService {
 public:
  /// `prepare_thread` is what each thread does first: it gives up rights that errands do not need.
  explicit ErrandService(std::function<void()> prepare_thread);
  ErrandService(const ErrandService&) = delete;
  ErrandService& operator=(const ErrandService&) = delete;
  /// Waits for no thread: what is held up ends with the process.
  ~ErrandService();

  /// The end of a connection for another handler; that of the one before is of no use any more.
  Result<UniqueFd> connect();
  void disconnect();

  /// A session, for which errands may be done from now on. Duplicates of the subject's descriptors
  /// are kept. One that cannot be had is not looked at, and the log says so.
  void show(std::uint64_t session, const ErrandSubject& subject);
  void hide(std::uint64_t session);

 private:
  struct Vmm;
  struct State;
  struct Connection;
  static void serve(State& state, Connection& connection);

  const std::function<void()> prepare_thread_;
  const std::shared_ptr<State> state_;
  std::shared_ptr<Connection> connection_;  // nullptr: there is none
};

}  // namespace thaw
