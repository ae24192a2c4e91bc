#pragma once

#include "base/error.h"
#include "cli/options.h"
#include "cli/server_list.h"

namespace thaw {

/// The commands of `thaw`: each does its work and prints what came of it.
namespace command {

/// The page servers and the namespace that the options name.
Result<ServerList> servers_of(const Options& options);

// On snapshots: with the page server.
Result<void> push(const Options& options);
Result<void> pull(const Options& options);
Result<void> list(const Options& options);
Result<void> show(const Options& options);
Result<void> remove(const Options& options);
Result<void> statistics(const Options& options);

// Looking after the page server's store.
Result<void> tag(const Options& options);
Result<void> untag(const Options& options);
Result<void> label(const Options& options);
Result<void> show_usage(const Options& options);
Result<void> show_or_set_namespace(const Options& options);
Result<void> remove_namespace(const Options& options);
// Jobs. The exit code is that of the error a job ended with, which is printed.
Result<int> collect_garbage(const Options& options);
Result<int> scrub(const Options& options);
Result<int> retain(const Options& options);
Result<int> back_up(const Options& options);
Result<int> compact(const Options& options);
/// Becomes the page server's program, which checks a store that nobody has open.
Result<void> check_store(const Options& options);

// On sessions: with this host's fault handler.
Result<void> prepare(const Options& options);
Result<void> list_sessions(const Options& options);
Result<void> stop(const Options& options);

// On working sets: with the page server.
Result<void> show_working_set(const Options& options);
Result<void> export_recordings(const Options& options);
Result<void> import_recordings(const Options& options);
Result<void> drop_working_set(const Options& options);
Result<void> plot(const Options& options);

// On certificates: with files alone.
Result<void> make_certificate_authority(const Options& options);
Result<void> issue_certificate(const Options& options);
Result<void> revoke_certificate(const Options& options);

/// With both. Exit code 1 unless every run was recorded.
Result<int> record(const Options& options);

}  // namespace command

}  // namespace thaw
