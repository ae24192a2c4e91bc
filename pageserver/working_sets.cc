#include "pageserver/working_sets.h"

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "pageserver/limits.h"
#include "pageserver/rank.h"
#include "pageserver/snapshots.h"

namespace thaw {

namespace {

/// What is there and cannot be read, or is not there although it should be: that does not pass.
bool is_lost(const Error& error) {
  return error.code() == ErrorCode::kCorrupt || error.code() == ErrorCode::kNotFound;
}

}  // namespace

Result<BuildTurns::Turn> BuildTurns::take(NamespaceId in, SnapshotId snapshot) {
  const Turn::Key key{in.value, snapshot.value};
  const std::lock_guard lock(mutex_);
  if (!taken_.insert(key).second) {
    return fail(ErrorCode::kBusy, "another recording of the snapshot is being taken in");
  }
  return Turn(*this, key);
}

void BuildTurns::give_back(Turn::Key key) {
  const std::lock_guard lock(mutex_);
  taken_.erase(key);
}

Result<WorkingSetBuild> WorkingSetBuild::of_recording(Store& store, NamespaceId in,
                                                      SnapshotId snapshot, ByteSpan sealed,
                                                      std::size_t kept) {
  CHECK(kept >= 1 && kept <= limits::kMaxRecordings);
  const Bytes manifest = TRY(store.manifest(in, snapshot));
  WorkingSetBuild build(store, in, TRY(decode_manifest(manifest)));
  build.recording_ = TRY(decode_recording(sealed));
  build.kept_ = kept;
  TRY(check_recording(*build.recording_, build.manifest_));
  return build;
}

Result<WorkingSetBuild> WorkingSetBuild::of_what_is_there(Store& store, NamespaceId in,
                                                          SnapshotId snapshot) {
  const Bytes manifest = TRY(store.manifest(in, snapshot));
  return WorkingSetBuild(store, in, TRY(decode_manifest(manifest)));
}

Result<void> WorkingSetBuild::prepare() {
  if (!begun_) {
    TRY(begin());
    begun_ = true;
  }
  if (!prepared_) return {};
  auto made = make_packs();
  if (made || written_packs_ == 0) return made;
  failure_ = made.error();
  return {};
}

Result<void> WorkingSetBuild::begin() {
  prepared_ = false;
  is_known_ = false;
  set_ = {
      .snapshot = manifest_.snapshot, .generation = 0, .recordings = 0, .pages = {}, .packs = {}};
  made_packs_ = written_packs_ = 0;
  held_.clear();
  state_ = TRY(sets().state(name_space_, manifest_.snapshot));
  if (!recording_ && state_.generation) return {};
  TRY(read_recordings());
  PageMap map;
  if (recording_ || !recordings_.empty()) {
    if (!TRY(rank_recordings()) || is_known_) return {};
    map = TRY(read_page_map(store_, name_space_, manifest_.snapshot));
  } else {
    const Ancestor from = TRY(find_ancestor());
    map = TRY(read_page_map(store_, name_space_, manifest_.snapshot));
    const PageMap its_map = TRY(read_page_map(store_, name_space_, from.manifest.snapshot));
    set_.pages = inherit(from.set.pages, its_map, map, manifest_.spec.memory_pages());
    set_.recordings = from.set.recordings;
    if (set_.pages.empty()) return fail(ErrorCode::kNotFound, "nothing to inherit is unchanged");
  }
  set_.packs = pack_groups(set_.pages, map);
  pack_pages_ = TRY(packed_pages(set_, map, manifest_.spec.memory_pages()));
  prepared_ = true;
  return {};
}

Result<void> WorkingSetBuild::make_packs() {
  std::size_t held = 0;
  for (const Bytes& pack : held_) held += pack.size();
  while (packs_left() && held < limits::kMaxHeldPackBytes) {
    held_.push_back(TRY(make_pack()));
    held += held_.back().size();
  }
  return {};
}

Result<std::optional<Bytes>> WorkingSetBuild::write() {
  auto written = failure_ ? std::unexpected(*failure_) : write_next();
  if (!written && written.error().code() != ErrorCode::kNotFound) {
    // What failed tells more than what this could say.
    static_cast<void>(sets().discard_packs(name_space_, manifest_.snapshot));
  }
  return written;
}

Result<std::optional<Bytes>> WorkingSetBuild::write_next() {
  TRY(store_.manifest(name_space_, manifest_.snapshot));
  const WorkingSetState now = TRY(sets().state(name_space_, manifest_.snapshot));
  if (now != state_ || !begun_) return restart();
  if (is_known_ || (!recording_ && state_.generation)) {
    return TRY(sets().working_set(name_space_, manifest_.snapshot));
  }
  // Nothing has changed since prepare() looked.
  if (!prepared_) return fail(ErrorCode::kCorrupt, "a recording or working set is missing");
  if (!held_.empty()) {
    const PackId first{.snapshot = set_.snapshot,
                       .generation = set_.generation,
                       .number = static_cast<std::uint32_t>(written_packs_)};
    TRY(sets().put_packs(name_space_, first, held_));
    written_packs_ += held_.size();
    held_.clear();
  }
  if (packs_left()) return std::optional<Bytes>();
  for (const auto& [number, reason] : unreadable_) {
    log_warning("recording {} of {} is lost: {}", number, manifest_.spec.name, reason);
    TRY(sets().drop_recording(name_space_, manifest_.snapshot, number));
  }
  std::optional<NewRecording> recording;
  if (recording_) recording = {summary_, encode_recording(*recording_), oldest_kept_};
  const auto published = sets().publish(name_space_, set_, recording);
  if (!published && published.error().code() == ErrorCode::kBusy) return restart();
  TRY(published);
  return encode_working_set(set_);
}

Result<std::optional<Bytes>> WorkingSetBuild::restart() {
  if (++restarts_ > limits::kMostBuildRestarts) {
    return fail(ErrorCode::kBusy, "the recordings of {} change all the time", manifest_.spec.name);
  }
  TRY(sets().discard_packs(name_space_, manifest_.snapshot));
  begun_ = false;
  return std::optional<Bytes>();
}

Result<void> WorkingSetBuild::read_recordings() {
  recordings_.clear();
  unreadable_.clear();
  for (const message::RecordingSummary& summary : state_.recordings) {
    const auto sealed = sets().recording(name_space_, manifest_.snapshot, summary.number);
    if (!sealed && !is_lost(sealed.error())) return std::unexpected(sealed.error());
    auto recording =
        sealed ? decode_recording(*sealed) : Result<Recording>(std::unexpected(sealed.error()));
    if (recording) {
      recordings_.push_back({summary.number, *std::move(recording)});
    } else {
      unreadable_.emplace(summary.number, recording.error().message());
    }
  }
  return {};
}

Result<bool> WorkingSetBuild::rank_recordings() {
  if (recording_ && std::ranges::find(recordings_, *recording_, &NumberedRecording::recording) !=
                        recordings_.end()) {
    is_known_ = state_.generation.has_value();
    if (is_known_) return true;
    // The set was withdrawn, and is made of what is there.
    recording_.reset();
  }
  // As many of the older ones as may stay beside a new one.
  const std::size_t most = recording_ ? kept_ - 1 : recordings_.size();
  const auto older =
      std::span<const NumberedRecording>(recordings_).last(std::min(recordings_.size(), most));
  // After a repair not all of the store may be of one time.
  std::uint64_t next = std::max(state_.last_recording, state_.generation.value_or(0)) + 1;
  if (!state_.recordings.empty()) next = std::max(next, state_.recordings.back().number + 1);
  oldest_kept_ = older.empty() ? next : older.front().number;
  std::vector<Recording> recordings;
  for (const NumberedRecording& each : older) recordings.push_back(each.recording);
  if (recording_) recordings.push_back(*recording_);
  set_.generation = recording_ ? next : older.back().number;
  set_.pages = rank(recordings);
  set_.recordings = static_cast<std::uint8_t>(ranked(recordings).size());
  return !recording_ || TRY(judge_recording());
}

Result<bool> WorkingSetBuild::judge_recording() {
  summary_ = {.number = set_.generation,
              .created_unix_ms = recording_->created_unix_ms,
              .pages = static_cast<std::uint32_t>(recording_->touches.size())};
  if (!state_.generation) return true;
  const auto sealed = TRY(if_found(sets().working_set(name_space_, manifest_.snapshot)));
  if (!sealed) return false;
  const WorkingSet before = TRY(decode_working_set(*sealed));
  summary_.set_pages = static_cast<std::uint32_t>(before.pages.size());
  summary_.set_hits = static_cast<std::uint32_t>(judge(before.pages, *recording_));
  return before.generation == *state_.generation;
}

Result<WorkingSetBuild::Ancestor> WorkingSetBuild::find_ancestor() const {
  SnapshotId next = manifest_.parent;
  for (std::size_t i = 0; i < limits::kMaxAncestors && next != SnapshotId{}; ++i) {
    const auto sealed = TRY(if_found(store_.manifest(name_space_, next)));
    if (!sealed) break;
    Manifest manifest = TRY(decode_manifest(*sealed));
    if (const auto found = TRY(if_found(sets().working_set(name_space_, next)))) {
      auto set = decode_working_set(*found);
      if (set) return Ancestor{std::move(manifest), *std::move(set)};
    }
    next = manifest.parent;
  }
  return fail(ErrorCode::kNotFound,
              "the snapshot has no working set yet: its next restore records one");
}

Result<Bytes> WorkingSetBuild::make_pack() {
  const std::vector<PackPage>& pages = pack_pages_[made_packs_];
  std::vector<ChunkId> ids;
  ids.reserve(pages.size());
  for (const PackPage& page : pages) ids.push_back(page.chunk);
  const auto read = TRY(if_found(store_.read_chunks(ids, 0)));
  if (!read) return fail(ErrorCode::kCorrupt, "a chunk of the snapshot is missing");
  Bytes plain(bytes_of({pages.size()}).value);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const MutablePageSpan to(plain.data() + i * kPageBytes, kPageBytes);
    if (const auto decoded = chunk_codec_.decode(read->chunks[i], ids[i], to); !decoded) {
      return fail(ErrorCode::kCorrupt, "chunk {:#x}: {}", ids[i].value, decoded.error().message());
    }
  }
  Bytes pack = pack_codec_.encode(pages, plain);
  set_.packs[made_packs_++].bytes = static_cast<std::uint32_t>(pack.size());
  return pack;
}

}  // namespace thaw
