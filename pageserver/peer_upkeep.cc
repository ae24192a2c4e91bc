#include <algorithm>

#include "format/limits.h"
#include "pageserver/peer.h"
#include "pageserver/quota.h"
#include "pageserver/snapshots.h"
#include "pageserver/usage.h"

namespace thaw {

Result<std::optional<Reply>> Peer::read_upkeep(const Message& message) {
  if (const auto* list = std::get_if<message::ListTags>(&message)) return TRY(tags(*list));
  if (const auto* get = std::get_if<message::GetUsage>(&message)) return TRY(usage_of(*get));
  if (std::holds_alternative<message::GetNamespace>(message)) return TRY(namespace_report());
  if (const auto* start = std::get_if<message::StartJob>(&message)) {
    const NamespaceId in = TRY(name_space());
    Jobs* const all = TRY(jobs());
    return with_body(TRY(all->start(in, *start)));
  }
  if (const auto* get = std::get_if<message::GetJob>(&message)) {
    const NamespaceId in = TRY(name_space());
    Jobs* const all = TRY(jobs());
    return with_body(TRY(all->report(in, get->number)));
  }
  if (const auto* stop = std::get_if<message::StopJob>(&message)) {
    const NamespaceId in = TRY(name_space());
    Jobs* const all = TRY(jobs());
    TRY(all->stop(in, stop->number));
    return done();
  }
  if (const auto* report = std::get_if<message::ReportDamage>(&message)) {
    return TRY(note_damage(*report));
  }
  return std::optional<Reply>();
}

Result<std::optional<Reply>> Peer::write_upkeep(const Message& message) {
  if (const auto* removal = std::get_if<message::DeleteSnapshot>(&message)) {
    TRY(delete_snapshot(*removal));
  } else if (const auto* move = std::get_if<message::MoveTag>(&message)) {
    const NamespaceId in = TRY(name_space());
    TRY(check_tag(move->to.tag));
    TRY(store_.move_tag(in, move->to, grants()));
  } else if (const auto* untag = std::get_if<message::RemoveTag>(&message)) {
    const NamespaceId in = TRY(name_space());
    TRY(store_.remove_tag(in, untag->tag));
  } else if (const auto* set = std::get_if<message::SetNamespace>(&message)) {
    if (set->settings.keep_per_label.size() > limits::kMaxLabelBytes) {
      return fail(ErrorCode::kTooLarge, "a label's key of {} bytes",
                  set->settings.keep_per_label.size());
    }
    const NamespaceId in = TRY(open_namespace());
    TRY(enter(in));
    TRY(store_.set_settings(*name_space_, set->settings));
  } else if (std::holds_alternative<message::RemoveNamespace>(message)) {
    TRY(remove_namespace());
  } else if (const auto* change = std::get_if<message::ChangeLabels>(&message)) {
    return TRY(change_labels(*change));
  } else {
    return std::optional<Reply>();
  }
  return done();
}

Result<Reply> Peer::note_damage(const message::ReportDamage& report) {
  const NamespaceId in = TRY(name_space());
  TRY(check_namespace(report.chunks, in));
  Jobs* const all = TRY(jobs());
  all->note_suspects(in, report);
  return done();
}

Result<Jobs*> Peer::jobs() {
  if (server_.jobs == nullptr) return fail(ErrorCode::kUnsupported, "this server does no jobs");
  return server_.jobs;
}

Result<Reply> Peer::tags(const message::ListTags& request) {
  const auto in = name_space();
  if (!in) return with_body(message::Tags{});
  message::Tags tags;
  tags.tags = TRY(store_.tags(*in, request.after, limits::kMaxTagsPerListing));
  tags.more = tags.tags.size() == limits::kMaxTagsPerListing;
  return with_body(std::move(tags));
}

Result<Reply> Peer::usage_of(const message::GetUsage& request) {
  const NamespaceId in = TRY(name_space());
  std::optional<SnapshotId> of;
  if (!request.name.empty()) {
    const Bytes sealed = TRY(store_.manifest(in, request.name));
    of = TRY(decode_manifest(sealed)).snapshot;
  }
  Unpaced control;
  return with_body(TRY(usage(store_, in, of, control)));
}

Result<Reply> Peer::namespace_report() {
  const NamespaceId in = TRY(name_space());
  const NamespaceTotals totals = TRY(store_.totals(in));
  message::NamespaceReport report;
  report.settings = TRY(store_.settings(in));
  report.snapshots = TRY(store_.named_snapshots(in));
  report.stored_bytes = totals.bytes();
  report.recorded_bytes = totals.recorded_bytes();
  report.recorded_share = working_set_share(report.settings.quota_bytes, totals.pushed_bytes());
  return with_body(std::move(report));
}

Result<void> Peer::remove_namespace() {
  const NamespaceId in = TRY(name_space());
  if (push_ != nullptr || !server_.close(in)) {
    return fail(ErrorCode::kBusy,
                "other connections or a push use namespace \"{}\": end them first",
                name_space_name_);
  }
  auto removed = server_.jobs == nullptr ? Result<void>() : server_.jobs->forget(in);
  if (removed) removed = store_.remove_namespace(name_space_name_);
  if (!removed) {
    server_.open(in);
    return fail(removed.error().code(), "namespace \"{}\": {}", name_space_name_,
                removed.error().context());
  }
  // Another namespace may get the number, and is told nothing of this one.
  traffic_->chunks_served = traffic_->packs_served = 0;
  leave();
  return {};
}

Result<Reply> Peer::change_labels(const message::ChangeLabels& request) {
  const NamespaceId in = TRY(name_space());
  const Bytes sealed = TRY(store_.manifest(in, request.name));
  SnapshotSpec spec = TRY(decode_manifest(sealed)).spec;
  const auto erase = [&](const std::string& key) {
    std::erase_if(spec.labels, [&](const Label& label) { return label.key == key; });
  };
  TRY(check_labels(request.set));
  for (const std::string& key : request.remove) erase(key);
  for (const Label& label : request.set) {
    erase(label.key);
    spec.labels.push_back(label);
  }
  TRY(check_spec(spec));
  const Manifest changed = TRY(store_.set_labels(in, spec.name, std::move(spec.labels), grants()));
  return with_body(message::ManifestReply{}, encode_manifest(changed));
}

/// A snapshot whose manifest cannot be read can be deleted too.
Result<void> Peer::delete_snapshot(const message::DeleteSnapshot& request) {
  const NamespaceId in = TRY(name_space());
  if (request.name.find(':') != std::string::npos && !store_.find_snapshot(in, request.name)) {
    return fail(ErrorCode::kInvalidArgument, "\"{}\" is a tag; name its snapshot", request.name);
  }
  const SnapshotId snapshot = TRY(store_.find_snapshot(in, request.name));
  const auto manifest = decode_manifest(TRY(store_.manifest(in, snapshot)));
  if (request.when_unused) {
    // The next collection removes it if nobody uses it by then.
    TRY(store_.retire(in, request.name));
  } else if (!TRY(remove_unless_pinned(store_, server_.pins, in, snapshot))) {
    return fail(
        ErrorCode::kBusy,
        "restores, pulls or pushes are using snapshot \"{}\"; `thaw rm --when-unused` deletes it "
        "after the last of them",
        request.name);
  }
  if (server_.jobs != nullptr) {
    server_.jobs->note_garbage(in, manifest ? manifest->statistics.new_chunk_bytes : kPageBytes);
  }
  return {};
}

Result<Reply> Peer::pin(const message::Pin& request) {
  const NamespaceId in = TRY(name_space());
  TRY(pins_.pin(store_, in, request.snapshot));
  return done();
}

Result<Reply> Peer::unpin(const message::Unpin& request) {
  const NamespaceId in = TRY(name_space());
  pins_.unpin(in, request.snapshot);
  return done();
}

}  // namespace thaw
