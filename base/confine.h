#pragma once

#include <span>

#include "base/error.h"

namespace thaw {

/// Rights that root has and a program may need to keep, named as in capabilities(7).
enum class Capability {
  kChown,        // give files and sockets to their owner
  kDacOverride,  // work in directories of other users
  kFowner,       // change files of other users
  kIpcLock,      // register buffers beyond the limit of locked memory
  kKill,         // end processes of other users
  kSysNice,      // raise priorities
  kSysPtrace,    // look into processes of other users; userfaultfd of all faults
};

/// Gives up, for good and for all threads, what a server does not need:
/// * every capability but `kept`, of those that it has;
/// * new privileges through exec (no_new_privs);
/// * all system calls but those in the list of confine.cc: others fail with EPERM, and the kernel
///   notes them in the audit log. No process is begun any more, no program, no namespace; nothing
///   is mounted, traced or loaded into the kernel;
/// * memory in core dumps: they have registers alone, since guest memory may be anywhere.
/// Under a sanitizer, whose reports need more, system calls stay as they are.
/// REQUIRES: no other thread yet; threads have capabilities of their own.
/// kPermission or kIo where the kernel or a surrounding filter does not let it.
Result<void> confine(std::span<const Capability> kept);

}  // namespace thaw
