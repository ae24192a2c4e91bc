#pragma once

#include <optional>
#include <string>

#include "base/clock.h"
#include "base/unique_fd.h"

namespace thaw {

/// The service manager that started this process, if there is one (sd_notify(3)): $NOTIFY_SOCKET
/// names it. A message is lost if the service manager does not read. One thread.
class ServiceManager {
 public:
  ServiceManager();

  void ready();
  void stopping();
  /// Keeps a duplicate, until it is removed by name, for the next process of this service.
  void keep(const std::string& name, const UniqueFd& descriptor);
  void forget(const std::string& name);

  /// How often alive() has to be called: twice in the time after which the service manager replaces
  /// a silent process ($WATCHDOG_USEC, WatchdogSec= in systemd.service(5)). None: it does not watch
  /// this process.
  std::optional<Nanoseconds> alive_interval() const { return alive_interval_; }
  /// Call it in the loop that must not stand still, so that it ends with the loop.
  void alive();

 private:
  void tell(const std::string& text, const UniqueFd* descriptor);

  UniqueFd socket_;  // not valid: there is none
  Nanoseconds patience_;
  std::optional<Nanoseconds> alive_interval_;
};

}  // namespace thaw
