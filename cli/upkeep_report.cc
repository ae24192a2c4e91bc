#include <algorithm>
#include <cstdio>

#include <nlohmann/json.hpp>

#include "base/output.h"
#include "base/printable.h"
#include "base/types.h"
#include "cli/json.h"
#include "cli/output.h"
#include "cli/report.h"

namespace thaw {

namespace {

std::string_view kind_name(message::JobKind kind) {
  switch (kind) {
    case message::JobKind::kCollect:
      return "gc";
    case message::JobKind::kScrub:
      return "scrub";
    case message::JobKind::kRetain:
      return "retain";
    case message::JobKind::kBackup:
      return "backup";
    case message::JobKind::kCompact:
      return "compact";
  }
  return "unknown";
}

std::string bound_text(std::uint64_t bound, const std::string& text) {
  return bound == 0 ? "none" : text;
}

}  // namespace

void print_usage(const message::Usage& usage, OutputForm form) {
  if (form == OutputForm::kJson) {
    return print_json({{"snapshots", usage.snapshots},
                       {"logical_bytes", usage.logical_bytes},
                       {"zero_bytes", usage.zero_bytes},
                       {"duplicate_bytes", usage.duplicate_bytes},
                       {"unique_bytes", usage.unique_bytes},
                       {"stored_bytes", usage.stored_bytes},
                       {"exclusive_bytes", usage.exclusive_bytes}});
  }
  print_table({{"snapshots", std::to_string(usage.snapshots)},
               {"logical", human_bytes(usage.logical_bytes)},
               {"zero", human_bytes(usage.zero_bytes)},
               {"duplicate", human_bytes(usage.duplicate_bytes)},
               {"unique", human_bytes(usage.unique_bytes)},
               {"stored", human_bytes(usage.stored_bytes)},
               {"exclusive", human_bytes(usage.exclusive_bytes) + ", which deleting would free"}});
}

void print_namespace(const message::NamespaceReport& report, OutputForm form) {
  const message::NamespaceSettings& settings = report.settings;
  if (form == OutputForm::kJson) {
    return print_json({{"snapshots", report.snapshots},
                       {"stored_bytes", report.stored_bytes},
                       {"recorded_bytes", report.recorded_bytes},
                       {"recorded_share", report.recorded_share},
                       {"quota_snapshots", settings.quota_snapshots},
                       {"quota_bytes", settings.quota_bytes},
                       {"keep_last", settings.keep_last},
                       {"keep_seconds", settings.keep_seconds},
                       {"keep_per_label", settings.keep_per_label}});
  }
  const std::string days =
      fmt::format("{:.1f} days", static_cast<double>(settings.keep_seconds) / 86400);
  print_table(
      {{"snapshots", std::to_string(report.snapshots)},
       {"stored", human_bytes(report.stored_bytes)},
       {"of it working sets", fmt::format("{} of at most {}", human_bytes(report.recorded_bytes),
                                          human_bytes(report.recorded_share))},
       {"quota of snapshots",
        bound_text(settings.quota_snapshots, std::to_string(settings.quota_snapshots))},
       {"quota of bytes", bound_text(settings.quota_bytes, human_bytes(settings.quota_bytes))},
       {"keep last", bound_text(settings.keep_last, std::to_string(settings.keep_last))},
       {"keep for", bound_text(settings.keep_seconds, days)},
       {"counted per label", settings.keep_per_label.empty() ? "-" : settings.keep_per_label}});
}

void print_job(const message::JobReport& report, OutputForm form) {
  const bool failed = report.state == message::JobState::kFailed;
  if (form == OutputForm::kJson) {
    Json counters = Json::object();
    for (const message::JobCounter& counter : report.counters) {
      counters[counter.name] = counter.value;
    }
    Json json{
        {"job", kind_name(report.kind)}, {"counters", counters}, {"findings", report.findings}};
    if (failed) json["error"] = error_json(from_reply(report.error));
    return print_json(json);
  }
  for (const std::string& finding : report.findings) print_out("{}\n", printable(finding));
  std::vector<std::vector<std::string>> rows;
  for (const message::JobCounter& counter : report.counters) {
    std::string name = counter.name;
    std::ranges::replace(name, '_', ' ');
    const bool bytes = name.ends_with("bytes");
    rows.push_back({name, bytes ? human_bytes(counter.value) : std::to_string(counter.value)});
  }
  if (!rows.empty()) print_table(rows);
  if (failed) print_error(from_reply(report.error), "thaw", form);
}

}  // namespace thaw
