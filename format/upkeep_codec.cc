#include "format/upkeep_codec.h"

#include "format/limits.h"

namespace thaw {

namespace {

void write_tag(const message::Tag& from, schema::Tag::Builder to) {
  to.setTag(to_text(from.tag));
  to.setName(to_text(from.name));
}

void write_settings(const message::NamespaceSettings& from, schema::NamespaceSettings::Builder to) {
  to.setQuotaBytes(from.quota_bytes);
  to.setQuotaSnapshots(from.quota_snapshots);
  to.setKeepLast(from.keep_last);
  to.setKeepSeconds(from.keep_seconds);
  to.setKeepPerLabel(to_text(from.keep_per_label));
}

Result<message::JobKind> read_job_kind(schema::JobKind kind) {
  const auto number = static_cast<std::uint16_t>(kind);
  if (number < message::kJobKinds) return static_cast<message::JobKind>(number);
  return fail(ErrorCode::kUnsupported, "a job of unknown kind {}", number);
}

/// A state that this build does not know is read as failed.
message::JobState read_job_state(schema::JobState state) {
  switch (state) {
    case schema::JobState::RUNNING:
      return message::JobState::kRunning;
    case schema::JobState::DONE:
      return message::JobState::kDone;
    case schema::JobState::FAILED:
      break;
  }
  return message::JobState::kFailed;
}

}  // namespace

void write(const message::MoveTag& from, MessageBuilder to) {
  write_tag(from.to, to.initMoveTag());
}
void write(const message::RemoveTag& from, MessageBuilder to) {
  to.setRemoveTag(to_text(from.tag));
}
void write(const message::ListTags& from, MessageBuilder to) {
  to.setListTags(to_text(from.after));
}
void write(const message::ChangeLabels& from, MessageBuilder to) {
  auto change = to.initChangeLabels();
  change.setName(to_text(from.name));
  auto set = change.initSet(static_cast<unsigned>(from.set.size()));
  for (unsigned i = 0; i < set.size(); ++i) {
    set[i].setKey(to_text(from.set[i].key));
    set[i].setValue(to_text(from.set[i].value));
  }
  auto remove = change.initRemove(static_cast<unsigned>(from.remove.size()));
  for (unsigned i = 0; i < remove.size(); ++i) remove.set(i, to_text(from.remove[i]));
}
void write(const message::GetUsage& from, MessageBuilder to) { to.setGetUsage(to_text(from.name)); }
void write(const message::GetNamespace&, MessageBuilder to) { to.setGetNamespace(); }
void write(const message::RemoveNamespace&, MessageBuilder to) { to.setRemoveNamespace(); }
void write(const message::SetNamespace& from, MessageBuilder to) {
  write_settings(from.settings, to.initSetNamespace());
}
void write(const message::StartJob& from, MessageBuilder to) {
  auto start = to.initStartJob();
  start.setKind(static_cast<schema::JobKind>(from.kind));
  start.setDryRun(from.dry_run);
  start.setTarget(to_text(from.target));
  start.setAtOnce(from.at_once);
}
void write(const message::GetJob& from, MessageBuilder to) { to.setGetJob(from.number); }
void write(const message::StopJob& from, MessageBuilder to) { to.setStopJob(from.number); }
void write(const message::Pin& from, MessageBuilder to) { to.setPin(from.snapshot.value); }
void write(const message::Unpin& from, MessageBuilder to) { to.setUnpin(from.snapshot.value); }
void write(const message::ReportDamage& from, MessageBuilder to) {
  auto report = to.initReportDamage();
  report.setSnapshot(from.snapshot.value);
  auto chunks = report.initChunks(static_cast<unsigned>(from.chunks.size()));
  for (unsigned i = 0; i < chunks.size(); ++i) chunks.set(i, from.chunks[i].value);
  auto packs = report.initPacks(static_cast<unsigned>(from.packs.size()));
  for (unsigned i = 0; i < packs.size(); ++i) write_pack_id(from.packs[i], packs[i]);
}

void write(const message::Tags& from, MessageBuilder to) {
  auto tags = to.initTags();
  tags.setMore(from.more);
  auto list = tags.initTags(static_cast<unsigned>(from.tags.size()));
  for (unsigned i = 0; i < list.size(); ++i) write_tag(from.tags[i], list[i]);
}
void write(const message::Usage& from, MessageBuilder to) {
  auto usage = to.initUsage();
  usage.setSnapshots(from.snapshots);
  usage.setLogicalBytes(from.logical_bytes);
  usage.setZeroBytes(from.zero_bytes);
  usage.setDuplicateBytes(from.duplicate_bytes);
  usage.setUniqueBytes(from.unique_bytes);
  usage.setStoredBytes(from.stored_bytes);
  usage.setExclusiveBytes(from.exclusive_bytes);
}
void write(const message::NamespaceReport& from, MessageBuilder to) {
  auto report = to.initNamespace();
  write_settings(from.settings, report.initSettings());
  report.setSnapshots(from.snapshots);
  report.setStoredBytes(from.stored_bytes);
  report.setRecordedBytes(from.recorded_bytes);
  report.setRecordedShare(from.recorded_share);
}
void write(const message::JobReport& from, MessageBuilder to) {
  auto report = to.initJob();
  report.setNumber(from.number);
  report.setKind(static_cast<schema::JobKind>(from.kind));
  report.setState(static_cast<schema::JobState>(from.state));
  report.setDone(from.done);
  report.setTotal(from.total);
  write_error(from.error, report.initError());
  auto counters = report.initCounters(static_cast<unsigned>(from.counters.size()));
  for (unsigned i = 0; i < counters.size(); ++i) {
    counters[i].setName(to_text(from.counters[i].name));
    counters[i].setValue(from.counters[i].value);
  }
  auto findings = report.initFindings(static_cast<unsigned>(from.findings.size()));
  for (unsigned i = 0; i < findings.size(); ++i) findings.set(i, to_text(from.findings[i]));
}

void write_error(const message::ErrorReply& from, schema::ErrorReply::Builder to) {
  to.setCode(static_cast<std::uint16_t>(from.code));
  to.setText(to_text(from.text));
}

Result<message::ErrorReply> read_error(schema::ErrorReply::Reader from) {
  if (from.getText().size() > limits::kMaxErrorTextBytes) {
    return fail(ErrorCode::kTooLarge, "an error text of {} bytes", from.getText().size());
  }
  return message::ErrorReply{error_code_from_number(from.getCode()), to_string(from.getText())};
}

Result<message::ChangeLabels> read_change_labels(schema::ChangeLabels::Reader from) {
  if (from.getSet().size() > limits::kMaxLabels || from.getRemove().size() > limits::kMaxLabels) {
    return fail(ErrorCode::kTooLarge, "a change of {} and {} labels", from.getSet().size(),
                from.getRemove().size());
  }
  message::ChangeLabels change{.name = to_string(from.getName()), .set = {}, .remove = {}};
  for (const auto label : from.getSet()) {
    change.set.push_back({to_string(label.getKey()), to_string(label.getValue())});
  }
  for (const auto key : from.getRemove()) change.remove.push_back(to_string(key));
  return change;
}

message::NamespaceSettings read_settings(schema::NamespaceSettings::Reader from) {
  return {.quota_bytes = from.getQuotaBytes(),
          .quota_snapshots = from.getQuotaSnapshots(),
          .keep_last = from.getKeepLast(),
          .keep_seconds = from.getKeepSeconds(),
          .keep_per_label = to_string(from.getKeepPerLabel())};
}

Result<message::StartJob> read_start_job(schema::StartJob::Reader from) {
  message::StartJob start;
  start.kind = TRY(read_job_kind(from.getKind()));
  start.dry_run = from.getDryRun();
  start.target = to_string(from.getTarget());
  start.at_once = from.getAtOnce();
  return start;
}

message::Tag read_tag(schema::Tag::Reader from) {
  return {.tag = to_string(from.getTag()), .name = to_string(from.getName())};
}

Result<message::ReportDamage> read_damage(schema::DamageReport::Reader from) {
  const auto ids = from.getChunks();
  if (ids.size() > limits::kMaxChunksPerRequest) {
    return fail(ErrorCode::kTooLarge, "a report of {} damaged chunks", ids.size());
  }
  const auto packs = from.getPacks();
  if (packs.size() > limits::kMaxPacksPerReport) {
    return fail(ErrorCode::kTooLarge, "a report of {} damaged packs", packs.size());
  }
  message::ReportDamage report{.chunks = {}, .snapshot = {from.getSnapshot()}};
  report.chunks.reserve(ids.size());
  for (const std::uint64_t id : ids) report.chunks.push_back({id});
  report.packs.reserve(packs.size());
  for (const auto pack : packs) report.packs.push_back(read_pack_id(pack));
  return report;
}

Result<message::Tags> read_tags(schema::Tags::Reader from) {
  if (from.getTags().size() > limits::kMaxTagsPerListing) {
    return fail(ErrorCode::kTooLarge, "a listing of {} tags", from.getTags().size());
  }
  message::Tags tags{.tags = {}, .more = from.getMore()};
  for (const auto tag : from.getTags()) tags.tags.push_back(read_tag(tag));
  return tags;
}

message::Usage read_usage(schema::Usage::Reader from) {
  return {.snapshots = from.getSnapshots(),
          .logical_bytes = from.getLogicalBytes(),
          .zero_bytes = from.getZeroBytes(),
          .duplicate_bytes = from.getDuplicateBytes(),
          .unique_bytes = from.getUniqueBytes(),
          .stored_bytes = from.getStoredBytes(),
          .exclusive_bytes = from.getExclusiveBytes()};
}

message::NamespaceReport read_namespace_report(schema::NamespaceReport::Reader from) {
  return {.settings = read_settings(from.getSettings()),
          .snapshots = from.getSnapshots(),
          .stored_bytes = from.getStoredBytes(),
          .recorded_bytes = from.getRecordedBytes(),
          .recorded_share = from.getRecordedShare()};
}

Result<message::JobReport> read_job_report(schema::JobReport::Reader from) {
  if (from.getCounters().size() > limits::kMaxJobCounters ||
      from.getFindings().size() > limits::kMaxJobFindings) {
    return fail(ErrorCode::kTooLarge, "a job's report of {} counters and {} findings",
                from.getCounters().size(), from.getFindings().size());
  }
  message::JobReport report;
  report.number = from.getNumber();
  report.kind = TRY(read_job_kind(from.getKind()));
  report.state = read_job_state(from.getState());
  report.done = from.getDone();
  report.total = from.getTotal();
  report.error = TRY(read_error(from.getError()));
  for (const auto counter : from.getCounters()) {
    report.counters.push_back({to_string(counter.getName()), counter.getValue()});
  }
  for (const auto finding : from.getFindings()) report.findings.push_back(to_string(finding));
  return report;
}

}  // namespace thaw
