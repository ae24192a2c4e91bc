#pragma once

#include <optional>
#include <span>

#include "base/error.h"
#include "base/landlock.h"

namespace thaw {

/// Rights that root has and a program may need to keep, named as in capabilities(7).
enum class Capability {
  kDacOverride,  // work in directories of other users
  kIpcLock,      // register buffers beyond the limit of locked memory
  kKill,         // end processes of other users
  kSysNice,      // raise priorities
  kSysPtrace,    // look into processes of other users
};

/// Which system calls are left.
enum class SystemCalls {
  kOfServers,  // those in the list of confine.cc: no process is begun any more, no program
  kOfAll,      // all but those in the other list: for a process that begins servers, perhaps of a
               // later version, which inherit what it has given up
};

/// Gives up, for good and for all threads, what a server does not need:
/// * every capability but `kept`, of those that it has;
/// * new privileges through exec (no_new_privs);
/// * system calls: others than `left` fail with EPERM, and the kernel notes them in the audit log.
///   No namespace is made; nothing is mounted, traced or loaded into the kernel;
/// * files: others than `files` names, where the kernel can; a warning says what it cannot;
/// * memory in core dumps: they have registers alone, since guest memory may be anywhere.
/// The filter of kOfAll is inherited by the programs that this process becomes or starts; if one of
/// them asks for the same filter, it is not added again.
/// Under a sanitizer, whose reports need more, system calls and files stay as they are.
/// REQUIRES: no other thread yet; threads have capabilities of their own.
/// kPermission or kIo where the kernel or a surrounding filter does not let it.
Result<void> confine(std::span<const Capability> kept, SystemCalls left = SystemCalls::kOfServers,
                     const std::optional<FilesLeft>& files = std::nullopt);

/// Gives up every capability of the calling thread but `kept`, and nothing else. kPermission.
Result<void> keep_capabilities(std::span<const Capability> kept);

}  // namespace thaw
