#pragma once

#include <optional>
#include <string>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/socket.h"
#include "base/unique_fd.h"

namespace thaw {

/// A process that may send to a UNIX socket can send descriptors, too, which the receiver gets
/// unasked. The file behind one decides how long its close lasts: a TCP socket that lingers, or a
/// file system of the sender's own. So where none is wanted, none may come.

/// From now on sending descriptors to this UNIX socket fails (SO_PASSRIGHTS, Linux 6.16), and so it
/// is with connections that begin at it from now on, if it listens. What is on its way comes still.
/// False where the kernel has no such thing.
bool refuse_descriptors(const UniqueFd& socket);
/// Whether the kernel has it.
bool can_refuse_descriptors();

/// As receive_with_descriptors(), with these flags of recvmsg(2) more.
Result<std::optional<Received>> receive_message(const UniqueFd& socket, MutableByteSpan to,
                                                int flags);

/// connect_unix() with a socket that refuses them from the start.
Result<UniqueFd> connect_unix_for_bytes(const std::string& path, Deadline deadline);

}  // namespace thaw
