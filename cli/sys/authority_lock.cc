#include "cli/sys/authority_lock.h"

#include <cerrno>

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>

#include "base/clock.h"
#include "cli/limits.h"

namespace thaw {

Result<UniqueFd> take_turn(const std::string& directory) {
  UniqueFd turn(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!turn.valid()) return fail_errno("open " + directory);
  const Deadline deadline = Deadline::after(limits::kAuthorityTurn);
  while (::flock(turn.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return fail_errno("lock " + directory);
    if (deadline.passed()) {
      return fail(ErrorCode::kBusy, "another `thaw certs` has not ended its work in {} within {} s",
                  directory, limits::kAuthorityTurn.count());
    }
    ::poll(nullptr, 0, static_cast<int>(limits::kAuthorityTurnPoll.count()));
  }
  return turn;
}

}  // namespace thaw
