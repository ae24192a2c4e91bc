#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/pull.h"
#include "cli/push.h"
#include "cli/record.h"
#include "cli/working_set_view.h"
#include "format/control.h"
#include "format/manifest.h"
#include "format/page_client.h"
#include "format/wire.h"

namespace thaw {

/// What the commands print: tables for people, or one JSON document with the same facts.
enum class OutputForm { kTable, kJson };

void print_push(const PushResult& result, OutputForm form);
void print_pull(const PullResult& result, OutputForm form);
void print_snapshots(const PageClient::SnapshotList& list, const std::vector<message::Tag>& tags,
                     OutputForm form);
void print_snapshot(const Manifest& snapshot, OutputForm form);
void print_statistics(const message::Statistics& statistics, OutputForm form);
void print_usage(const message::Usage& usage, OutputForm form);
void print_namespace(const message::NamespaceReport& report, OutputForm form);
/// What came of a job that is over.
void print_job(const message::JobReport& report, OutputForm form);
void print_prepared(const control::Prepared& prepared, OutputForm form);
/// What of it is not plain counters stands with the state: "serving, recording".
/// How its page servers do comes first if one of them does not do well.
void print_sessions(const HandlerReport& handler, OutputForm form);
void print_working_set(const WorkingSetView& view, OutputForm form);
/// How many recordings the command has moved; `done` says how.
void print_recordings(std::string_view done, std::size_t count, OutputForm form);
/// A run of `thaw record` when it is over. Nothing for programs, for whom the next has them all.
void print_run(const RecordedRun& run, OutputForm form);
/// What came of all runs; `set` is the working set in the end.
void print_runs(const std::vector<RecordedRun>& runs, const std::optional<WorkingSetView>& set,
                OutputForm form);
/// A command that only succeeds: nothing for people, {"ok": true} for programs.
void print_success(OutputForm form);
/// One line on stderr, with what to do next; `command` is the one that failed ("thaw ws show").
void print_error(const Error& error, const std::string& command, OutputForm form);

}  // namespace thaw
