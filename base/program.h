#pragma once

namespace thaw {

enum class ProgramKind {
  kCommand,  // works for the one who waits for its output and exit code
  kServer,   // others depend on it
};

/// The first call of main, before any descriptor is opened or thread started.
///
/// * Descriptors 0 to 2 that are closed get /dev/null, since a file opened later would have their
///   numbers and be written into. It is opened the wrong way round: reading or writing fails.
/// * SIGPIPE and SIGXFSZ are ignored: the call that writes to a dead reader, or beyond the limit of
///   a file, fails instead.
/// * Files and directories that it makes are for its user alone (umask 077), also those that
///   libraries make, because they may hold guest memory. What other users are to reach gets its
///   mode explicitly. Programs that it starts inherit this.
/// * An exception that nothing catches ends the process with a line in the log.
/// * A server ignores all other signals too, those that stop a terminal's job included. Left are
///   SIGTERM, SIGINT and SIGQUIT, which end it, SIGHUP if take_signals() takes it, and SIGKILL and
///   SIGSTOP. A fault of its own (SIGSEGV, SIGBUS, SIGABRT) ends it all the same: the kernel and
///   abort(3) restore the default action then.
void begin_program(ProgramKind kind);

}  // namespace thaw
