#include "cli/report.h"

#include <cstdio>

#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "cli/output.h"

namespace thaw {

namespace {

using Json = nlohmann::ordered_json;

void print_json(const Json& json) {
  std::puts(json.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
}

Json regions_json(const std::vector<RegionShape>& regions) {
  Json array = Json::array();
  for (const RegionShape& region : regions) {
    array.push_back({{"size", region.size.value},
                     {"offset", region.offset.value},
                     {"page_size", region.page_size.value}});
  }
  return array;
}

Json manifest_json(const Manifest& manifest) {
  Json labels = Json::object();
  for (const Label& label : manifest.spec.labels) labels[label.key] = label.value;
  return {{"name", manifest.spec.name},
          {"snapshot", manifest.snapshot.value},
          {"created_unix_ms", manifest.created_unix_ms},
          {"memory_bytes", manifest.spec.memory.value},
          {"state_bytes", manifest.spec.state.value},
          {"regions", regions_json(manifest.spec.regions)},
          {"labels", labels},
          {"cpu_vendor", manifest.spec.cpu_vendor},
          {"content_hash", to_hex(manifest.content_hash)},
          {"zero_pages", manifest.statistics.zero_pages},
          {"duplicate_pages", manifest.statistics.duplicate_pages},
          {"new_pages", manifest.statistics.new_pages},
          {"new_chunk_bytes", manifest.statistics.new_chunk_bytes}};
}

std::string pages_text(std::uint64_t pages) { return human_bytes(pages * kPageBytes); }

std::string labels_text(const std::vector<Label>& labels) {
  std::string text;
  for (const Label& label : labels) {
    text += (text.empty() ? "" : " ") + label.key + "=" + label.value;
  }
  return text;
}

}  // namespace

void print_push(const PushResult& result, OutputForm form) {
  if (form == OutputForm::kJson) {
    Json json = manifest_json(result.manifest);
    json["uploaded_bytes"] = result.uploaded_bytes;
    json["reconnects"] = result.reconnects;
    return print_json(json);
  }
  const PushStatistics& pages = result.manifest.statistics;
  fmt::print("pushed {}: {} zero, {} known, {} new stored in {}\n", result.manifest.spec.name,
             pages_text(pages.zero_pages), pages_text(pages.duplicate_pages),
             pages_text(pages.new_pages), human_bytes(pages.new_chunk_bytes));
}

void print_pull(const PullResult& result, OutputForm form) {
  if (form == OutputForm::kJson) {
    Json json = manifest_json(result.manifest);
    json["received_bytes"] = result.received_bytes;
    return print_json(json);
  }
  fmt::print("pulled {}: {} of memory, {} of state, {} received\n", result.manifest.spec.name,
             human_bytes(result.manifest.spec.memory.value),
             human_bytes(result.manifest.spec.state.value), human_bytes(result.received_bytes));
}

void print_snapshots(const std::vector<Manifest>& snapshots, OutputForm form) {
  if (form == OutputForm::kJson) {
    Json array = Json::array();
    for (const Manifest& snapshot : snapshots) array.push_back(manifest_json(snapshot));
    return print_json({{"snapshots", array}});
  }
  std::vector<std::vector<std::string>> rows{
      {"NAME", "MEMORY", "STATE", "ZERO", "KNOWN", "NEW", "STORED", "CREATED (UTC)", "LABELS"}};
  for (const Manifest& snapshot : snapshots) {
    const PushStatistics& pages = snapshot.statistics;
    rows.push_back({snapshot.spec.name, human_bytes(snapshot.spec.memory.value),
                    human_bytes(snapshot.spec.state.value), pages_text(pages.zero_pages),
                    pages_text(pages.duplicate_pages), pages_text(pages.new_pages),
                    human_bytes(pages.new_chunk_bytes), human_time(snapshot.created_unix_ms),
                    labels_text(snapshot.spec.labels)});
  }
  print_table(rows);
}

void print_snapshot(const Manifest& snapshot, OutputForm form) {
  if (form == OutputForm::kJson) return print_json(manifest_json(snapshot));
  const PushStatistics& pages = snapshot.statistics;
  std::vector<std::vector<std::string>> rows{
      {"name", snapshot.spec.name},
      {"created", human_time(snapshot.created_unix_ms) + " UTC"},
      {"memory", human_bytes(snapshot.spec.memory.value)},
      {"state", human_bytes(snapshot.spec.state.value)},
      {"zero", pages_text(pages.zero_pages)},
      {"known before", pages_text(pages.duplicate_pages)},
      {"new", pages_text(pages.new_pages) + ", stored in " + human_bytes(pages.new_chunk_bytes)},
      {"CPU vendor", snapshot.spec.cpu_vendor},
      {"content", "sha256 " + to_hex(snapshot.content_hash)},
      {"labels", labels_text(snapshot.spec.labels)}};
  for (const RegionShape& region : snapshot.spec.regions) {
    rows.push_back(
        {"region", fmt::format("{} at offset {:#x}, pages of {}", human_bytes(region.size.value),
                               region.offset.value, human_bytes(region.page_size.value))});
  }
  print_table(rows);
}

void print_statistics(const message::Statistics& statistics, OutputForm form) {
  if (form == OutputForm::kJson) {
    return print_json({{"snapshots", statistics.snapshots},
                       {"logical_bytes", statistics.logical_bytes},
                       {"zero_bytes", statistics.zero_bytes},
                       {"chunks", statistics.chunks},
                       {"chunk_bytes", statistics.chunk_bytes},
                       {"connections", statistics.connections},
                       {"chunks_served", statistics.chunks_served},
                       {"uptime_seconds", statistics.uptime_seconds}});
  }
  print_table(
      {{"snapshots", std::to_string(statistics.snapshots)},
       {"logical", human_bytes(statistics.logical_bytes)},
       {"zero", human_bytes(statistics.zero_bytes)},
       {"chunks", fmt::format("{} in {}", statistics.chunks, human_bytes(statistics.chunk_bytes))},
       {"connections", std::to_string(statistics.connections)},
       {"chunks served", std::to_string(statistics.chunks_served)},
       {"uptime", fmt::format("{} s", statistics.uptime_seconds)}});
}

void print_prepared(const control::Prepared& prepared, OutputForm form) {
  if (form == OutputForm::kJson) {
    return print_json({{"session", prepared.session},
                       {"socket", prepared.socket},
                       {"memory_bytes", prepared.memory.value},
                       {"state_bytes", prepared.state.value},
                       {"regions", regions_json(prepared.regions)}});
  }
  fmt::print("session {}: waiting for a VMM with {} of memory on {}\n", prepared.session,
             human_bytes(prepared.memory.value), prepared.socket);
}

void print_sessions(const std::vector<SessionReport>& sessions, OutputForm form) {
  if (form == OutputForm::kJson) {
    // The handler's own JSON, so that no counter is left out.
    std::fputs(encode_control_reply(sessions).c_str(), stdout);
    return;
  }
  std::vector<std::vector<std::string>> rows{{"SESSION", "SNAPSHOT", "STATE", "PID", "FAULTS",
                                              "FETCHED", "AROUND", "ZERO", "WAITING", "RECEIVED",
                                              "P50 US", "P99 US", "OUTCOME"}};
  for (const SessionReport& session : sessions) {
    rows.push_back({std::to_string(session.session), session.snapshot,
                    std::string(session_state_name(session.state)),
                    session.vmm_pid == 0 ? "-" : std::to_string(session.vmm_pid),
                    std::to_string(session.faults.total), std::to_string(session.faults.fetched),
                    std::to_string(session.around_pages),
                    std::to_string(session.faults.zero + session.faults.removed),
                    std::to_string(session.waiting_pages), human_bytes(session.bytes_received),
                    fmt::format("{:.0f}", session.latency_us_p50),
                    fmt::format("{:.0f}", session.latency_us_p99), session.outcome});
  }
  print_table(rows);
}

void print_success(OutputForm form) {
  if (form == OutputForm::kJson) print_json({{"ok", true}});
}

void print_error(const Error& error, OutputForm form) {
  if (form == OutputForm::kJson) {
    print_json({{"error", {{"code", error_name(error.code())}, {"text", error.message()}}}});
  }
  const std::string advice = advice_for(error.code());
  fmt::print(stderr, "thaw: {}.{}{}\n", error.message(), advice.empty() ? "" : " ", advice);
}

}  // namespace thaw
