#include <cstdio>

#include "base/output.h"
#include "base/printable.h"
#include "cli/output.h"
#include "cli/report.h"

namespace thaw {

namespace {

/// "serving, recording": what the session is and what goes on in it beside faults.
std::string state_text(const SessionReport& session) {
  std::string text(session_state_name(session.state));
  switch (session.recording) {
    case RecordingState::kNone:
      break;
    case RecordingState::kRunning:
      text += ", recording";
      break;
    case RecordingState::kUploading:
      text += ", storing";
      break;
    case RecordingState::kStored:
      text += ", recorded";
      break;
    case RecordingState::kFailed:
      text += ", not recorded";
      break;
  }
  if (session.shared) text += ", shared";
  if (!session.remove_events) text += ", no remove events";
  if (session.slow_memory) text += ", slow memory";
  if (session.prefetch.state == PrefetchState::kStreaming) text += ", prefetching";
  if (session.prefetch.state == PrefetchState::kStopped) text += ", prefetch stopped";
  if (session.prefetch.state == PrefetchState::kShortOfMemory) {
    text += ", prefetch stopped: no memory";
  }
  if (session.memory_waiting_pages > 0) text += ", waits for memory";
  if (!session.short_of.empty()) text += " (" + session.short_of + ")";
  if (session.handler_deaths > 0) {
    text += fmt::format(", handler died {}x ({:.0f} ms)", session.handler_deaths,
                        static_cast<double>(session.unserved_us) / 1000);
  }
  return text;
}

std::string pid_text(const SessionReport& session) {
  if (session.vmm_unseen) return "unseen";  // in another PID namespace
  return session.vmm_pid == 0 ? "-" : std::to_string(session.vmm_pid);
}

/// "4812/5000": pages brought, of those in the working set.
std::string prefetched_text(const PrefetchSummary& prefetch) {
  if (prefetch.state == PrefetchState::kNone) return "-";
  return fmt::format("{}/{}", prefetch.prefetched_pages, prefetch.set_pages);
}

std::string late_text(const PrefetchSummary& prefetch) {
  return prefetch.state == PrefetchState::kNone ? "-" : std::to_string(prefetch.late_pages);
}

/// What an operator has to know at once: which page servers are no good, and who waits.
void print_trouble(const HandlerReport& handler) {
  std::uint64_t waiting = 0;
  for (const SessionReport& session : handler.sessions) waiting += session.waiting_pages;
  bool any = false;
  for (const ServerReport& server : handler.servers) {
    if (server.state == ServerState::kAway) {
      print_out("page server {} is away for {:.1f} s\n", printable(server.address),
                static_cast<double>(server.away_ms) / 1000);
    } else if (server.state == ServerState::kSlow) {
      print_out("page server {} is slow or fails, and asked only where no other is there\n",
                printable(server.address));
    } else {
      continue;
    }
    any = true;
  }
  if (any) print_out("{} pages wait\n\n", waiting);
}

void print_upgrades(const HandlerReport& handler) {
  if (handler.upgrades == 0) return;
  const std::string end = handler.upgrade_failure.empty()
                              ? ""
                              : ", the last was not done, and the program before goes on: " +
                                    printable(handler.upgrade_failure);
  print_out("upgrades tried: {}{}\n\n", handler.upgrades, end);
}

/// Before it is full, since a session is refused then.
void print_index(const HandlerReport& handler) {
  if (handler.index_bytes < handler.index_bytes_most / 4 * 3) return;
  print_out("page maps take {} of {} of memory (--index-mib of the fault handler)\n\n",
            human_bytes(handler.index_bytes), human_bytes(handler.index_bytes_most));
}

}  // namespace

void print_sessions(const HandlerReport& handler, OutputForm form) {
  if (form == OutputForm::kJson) {
    // The handler's own JSON, so that no counter is left out.
    print_text(encode_control_reply(handler));
    return;
  }
  print_upgrades(handler);
  print_trouble(handler);
  print_index(handler);
  std::vector<std::vector<std::string>> rows{
      {"SESSION", "SNAPSHOT", "STATE", "PID", "FAULTS", "FETCHED", "AROUND", "ZERO", "PREFETCHED",
       "LATE", "WAITING", "RECEIVED", "P50 US", "P99 US", "OUTCOME"}};
  for (const SessionReport& session : handler.sessions) {
    rows.push_back({std::to_string(session.session), session.snapshot, state_text(session),
                    pid_text(session), std::to_string(session.faults.total),
                    std::to_string(session.faults.fetched), std::to_string(session.around_pages),
                    std::to_string(session.faults.zero + session.faults.removed),
                    prefetched_text(session.prefetch), late_text(session.prefetch),
                    std::to_string(session.waiting_pages),
                    human_bytes(session.bytes_received + session.prefetch.bytes),
                    fmt::format("{:.0f}", session.latency_us_p50),
                    fmt::format("{:.0f}", session.latency_us_p99), session.outcome});
  }
  print_table(rows);
}

}  // namespace thaw
