#include "cli/report.h"

#include <cstdio>
#include <map>

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/output.h"
#include "base/printable.h"
#include "cli/json.h"
#include "cli/output.h"

namespace thaw {

namespace {

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
          {"parent", manifest.parent.value},
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
          {"new_chunk_bytes", manifest.statistics.new_chunk_bytes},
          {"changed_pages", manifest.statistics.changed_pages},
          {"became_zero_pages", manifest.statistics.became_zero_pages},
          {"cold_pages", manifest.statistics.cold_pages}};
}

std::string pages_text(std::uint64_t pages) { return human_bytes(pages * kPageBytes); }

std::string changes_text(const PushStatistics& pages) {
  return fmt::format("{} changed, {} became zero", pages_text(pages.changed_pages),
                     pages_text(pages.became_zero_pages));
}

std::string labels_text(const std::vector<Label>& labels) {
  std::string text;
  for (const Label& label : labels) {
    text += (text.empty() ? "" : " ") + label.key + "=" + label.value;
  }
  return text;
}

std::string share_text(std::uint64_t part, std::uint64_t whole) {
  if (whole == 0) return "-";
  return fmt::format("{:.1f} %", 100 * static_cast<double>(part) / static_cast<double>(whole));
}

std::string totals_text(const message::PrefetchCounters& totals) {
  if (totals.sessions == 0) return "in no session yet";
  return fmt::format("in {} session{}: {} pages in {}, {} late; {} faults left a session",
                     totals.sessions, totals.sessions == 1 ? "" : "s", totals.prefetched_pages,
                     human_bytes(totals.bytes),
                     share_text(totals.late_pages, totals.prefetched_pages + totals.late_pages),
                     totals.faults / totals.sessions);
}

Json working_set_json(const WorkingSetView& view) {
  Json recordings = Json::array();
  for (const message::RecordingSummary& recording : view.report.recordings) {
    recordings.push_back({{"number", recording.number},
                          {"created_unix_ms", recording.created_unix_ms},
                          {"pages", recording.pages},
                          {"set_pages", recording.set_pages},
                          {"set_hits", recording.set_hits}});
  }
  const message::PrefetchCounters& totals = view.report.totals;
  return {{"snapshot", view.snapshot.spec.name},
          {"generation", view.set.generation},
          {"ranked_recordings", view.set.recordings},
          {"pages", view.set.pages.size()},
          {"first_pages", view.pages_of(TouchClass::kFirst)},
          {"early_pages", view.pages_of(TouchClass::kEarly)},
          {"late_pages", view.pages_of(TouchClass::kLate)},
          {"zero_pages", view.set.pages.size() - view.packed_pages()},
          {"packs", view.set.packs.size()},
          {"pack_bytes", view.set.pack_bytes()},
          {"plain_bytes", view.packed_pages() * kPageBytes},
          {"recordings", recordings},
          {"totals",
           {{"sessions", totals.sessions},
            {"set_pages", totals.set_pages},
            {"prefetched_pages", totals.prefetched_pages},
            {"late_pages", totals.late_pages},
            {"faults", totals.faults},
            {"bytes", totals.bytes}}}};
}

}  // namespace

Json error_json(const Error& error) {
  return {{"code", error_name(error.code())}, {"text", error.message()}};
}

void print_json(const Json& json) {
  print_out("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
}

void print_push(const PushResult& result, OutputForm form) {
  if (form == OutputForm::kJson) {
    Json json = manifest_json(result.manifest);
    json["uploaded_bytes"] = result.uploaded_bytes;
    json["reconnects"] = result.reconnects;
    json["warnings"] = Json::array();
    for (const PushWarning warning : result.warnings) {
      json["warnings"].push_back(
          {{"code", warning_name(warning)}, {"text", warning_text(warning)}});
    }
    return print_json(json);
  }
  const PushStatistics& pages = result.manifest.statistics;
  print_out("pushed {}: {} zero, {} known, {} new stored in {}\n", result.manifest.spec.name,
            pages_text(pages.zero_pages), pages_text(pages.duplicate_pages),
            pages_text(pages.new_pages), human_bytes(pages.new_chunk_bytes));
  print_out("content: sha256 {}\n", to_hex(result.manifest.content_hash));
  if (pages.cold_pages > 0) print_out("cold: {}\n", pages_text(pages.cold_pages));
  if (result.manifest.parent == SnapshotId{}) return;
  print_out("since its parent: {}\n", changes_text(pages));
}

void print_pull(const PullResult& result, OutputForm form) {
  if (form == OutputForm::kJson) {
    Json json = manifest_json(result.manifest);
    json["received_bytes"] = result.received_bytes;
    json["reconnects"] = result.reconnects;
    return print_json(json);
  }
  print_out("pulled {}: {} of memory, {} of state, {} received\n", result.manifest.spec.name,
            human_bytes(result.manifest.spec.memory.value),
            human_bytes(result.manifest.spec.state.value), human_bytes(result.received_bytes));
}

void print_snapshots(const PageClient::SnapshotList& list, const std::vector<message::Tag>& tags,
                     OutputForm form) {
  const auto outdated_since = [&](const Manifest& snapshot) {
    const auto found = list.outdated.find(snapshot.snapshot);
    return found == list.outdated.end() ? 0 : found->second;
  };
  std::map<std::string, std::vector<std::string>> tags_of;
  for (const message::Tag& tag : tags) tags_of[tag.name].push_back(tag.tag);
  if (form == OutputForm::kJson) {
    Json array = Json::array();
    for (const Manifest& snapshot : list.snapshots) {
      array.push_back(manifest_json(snapshot));
      array.back()["tags"] = tags_of[snapshot.spec.name];
      array.back()["outdated_unix_ms"] = outdated_since(snapshot);
    }
    return print_json({{"snapshots", array}});
  }
  std::vector<std::vector<std::string>> rows{{"NAME", "MEMORY", "STATE", "ZERO", "KNOWN", "NEW",
                                              "STORED", "CREATED (UTC)", "OUTDATED", "TAGS",
                                              "LABELS"}};
  for (const Manifest& snapshot : list.snapshots) {
    const PushStatistics& pages = snapshot.statistics;
    rows.push_back({snapshot.spec.name, human_bytes(snapshot.spec.memory.value),
                    human_bytes(snapshot.spec.state.value), pages_text(pages.zero_pages),
                    pages_text(pages.duplicate_pages), pages_text(pages.new_pages),
                    human_bytes(pages.new_chunk_bytes), human_time(snapshot.created_unix_ms),
                    outdated_since(snapshot) == 0 ? "-" : human_time(outdated_since(snapshot)),
                    fmt::format("{}", fmt::join(tags_of[snapshot.spec.name], " ")),
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
      {"cold", pages_text(pages.cold_pages)},
      {"since parent", snapshot.parent == SnapshotId{} ? "has no parent" : changes_text(pages)},
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
                       {"uptime_seconds", statistics.uptime_seconds},
                       {"pack_bytes", statistics.pack_bytes},
                       {"packs_served", statistics.packs_served},
                       {"document_bytes", statistics.document_bytes},
                       {"recording_bytes", statistics.recording_bytes}});
  }
  print_table(
      {{"snapshots", std::to_string(statistics.snapshots)},
       {"logical", human_bytes(statistics.logical_bytes)},
       {"zero", human_bytes(statistics.zero_bytes)},
       {"chunks", fmt::format("{} in {}", statistics.chunks, human_bytes(statistics.chunk_bytes))},
       {"page maps and names", human_bytes(statistics.document_bytes)},
       {"recordings", human_bytes(statistics.recording_bytes)},
       {"connections", std::to_string(statistics.connections)},
       {"chunks served", std::to_string(statistics.chunks_served)},
       {"packs", fmt::format("{} served, {} kept", statistics.packs_served,
                             human_bytes(statistics.pack_bytes))},
       {"uptime", fmt::format("{} s", statistics.uptime_seconds)}});
}

void print_prepared(const control::Prepared& prepared, OutputForm form) {
  if (form == OutputForm::kJson) {
    return print_json({{"session", prepared.session},
                       {"socket", prepared.socket},
                       {"memory_bytes", prepared.memory.value},
                       {"state_bytes", prepared.state.value},
                       {"regions", regions_json(prepared.regions)},
                       {"generation", prepared.generation},
                       {"warnings", prepared.warnings}});
  }
  for (const std::string& warning : prepared.warnings) {
    print_out("warning: {}\n", printable(warning));
  }
  print_out("session {}: waiting for a VMM with {} of memory on {}\n", prepared.session,
            human_bytes(prepared.memory.value), printable(prepared.socket));
}

void print_working_set(const WorkingSetView& view, OutputForm form) {
  if (form == OutputForm::kJson) return print_json(working_set_json(view));
  const WorkingSet& set = view.set;
  const std::uint64_t packed = view.packed_pages();
  const std::string ranked = set.generation == 0
                                 ? "taken over from the parent"
                                 : fmt::format("ranked from {} recordings", set.recordings);
  print_table({{"snapshot", view.snapshot.spec.name},
               {"working set", fmt::format("{} pages, {}", set.pages.size(), ranked)},
               {"touched",
                fmt::format("{} first, {} early, {} late", view.pages_of(TouchClass::kFirst),
                            view.pages_of(TouchClass::kEarly), view.pages_of(TouchClass::kLate))},
               {"packs", fmt::format("{} in {}, plain {}; {} zero pages beside them",
                                     set.packs.size(), human_bytes(set.pack_bytes()),
                                     pages_text(packed), set.pages.size() - packed)},
               {"prefetched", totals_text(view.report.totals)}});
  if (view.report.recordings.empty()) return;
  print_text("\n");
  std::vector<std::vector<std::string>> rows{
      {"RECORDING", "RECORDED (UTC)", "PAGES", "SET THEN", "PRECISION", "RECALL"}};
  for (const message::RecordingSummary& recording : view.report.recordings) {
    const bool had_set = recording.set_pages > 0;
    rows.push_back({std::to_string(recording.number), human_time(recording.created_unix_ms),
                    std::to_string(recording.pages),
                    had_set ? std::to_string(recording.set_pages) : "-",
                    had_set ? share_text(recording.set_hits, recording.set_pages) : "-",
                    had_set ? share_text(recording.set_hits, recording.pages) : "-"});
  }
  print_table(rows);
}

void print_recordings(std::string_view done, std::size_t count, OutputForm form) {
  if (form == OutputForm::kJson) return print_json({{"recordings", count}});
  print_out("{} {} recording{}\n", done, count, count == 1 ? "" : "s");
}

void print_run(const RecordedRun& run, OutputForm form) {
  if (form == OutputForm::kJson) return;  // all of them in one document at the end
  print_out("run {}: {} pages in {:.1f} s, {}\n", run.number, run.pages, run.seconds,
            run.stored() ? "stored" : "not stored: " + printable(run.problem));
  std::fflush(stdout);
}

void print_runs(const std::vector<RecordedRun>& runs, const std::optional<WorkingSetView>& set,
                OutputForm form) {
  if (form == OutputForm::kJson) {
    Json array = Json::array();
    for (const RecordedRun& run : runs) {
      array.push_back({{"run", run.number},
                       {"pages", run.pages},
                       {"seconds", run.seconds},
                       {"stored", run.stored()},
                       {"problem", run.problem}});
    }
    return print_json({{"runs", array}, {"working_set", set ? working_set_json(*set) : Json()}});
  }
  if (!set) return;
  print_text("\n");
  print_working_set(*set, form);
}

void print_success(OutputForm form) {
  if (form == OutputForm::kJson) print_json({{"ok", true}});
}

void print_error(const Error& error, const std::string& command, OutputForm form) {
  if (form == OutputForm::kJson) {
    print_json({{"error", error_json(error)}});
  }
  const std::string message = printable(error.message());
  const std::string advice = advice_for(error, command);
  print_err("thaw: {}{}{}{}\n", message, message.ends_with('?') ? "" : ".",
            advice.empty() ? "" : " ", advice);
}

}  // namespace thaw
