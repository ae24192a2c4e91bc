#pragma once

#include <string>
#include <vector>

#include "cli/pull.h"
#include "cli/push.h"
#include "format/control.h"
#include "format/manifest.h"
#include "format/wire.h"

namespace thaw {

/// What the commands print: tables for people, or one JSON document with the same facts.
enum class OutputForm { kTable, kJson };

void print_push(const PushResult& result, OutputForm form);
void print_pull(const PullResult& result, OutputForm form);
void print_snapshots(const std::vector<Manifest>& snapshots, OutputForm form);
void print_snapshot(const Manifest& snapshot, OutputForm form);
void print_statistics(const message::Statistics& statistics, OutputForm form);
void print_prepared(const control::Prepared& prepared, OutputForm form);
void print_sessions(const std::vector<SessionReport>& sessions, OutputForm form);
/// A command that only succeeds: nothing for people, {"ok": true} for programs.
void print_success(OutputForm form);
/// One line on stderr, with what to do next.
void print_error(const Error& error, OutputForm form);

}  // namespace thaw
