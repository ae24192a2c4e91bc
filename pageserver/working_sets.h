#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "format/chunk.h"
#include "format/pack.h"
#include "format/page_map.h"
#include "format/recording.h"
#include "format/working_set.h"
#include "pageserver/store.h"

namespace thaw {

/// Which snapshots have working sets under way that recordings change: one at a time each, as
/// another would have to be made over when the first is stored. Any thread.
class BuildTurns {
 public:
  /// Gives the turn back when it goes.
  class Turn {
   public:
    Turn(Turn&& other) noexcept : turns_(std::exchange(other.turns_, nullptr)), key_(other.key_) {}
    Turn& operator=(Turn&&) = delete;
    ~Turn() {
      if (turns_ != nullptr) turns_->give_back(key_);
    }

   private:
    friend BuildTurns;
    using Key = std::pair<std::uint16_t, std::uint64_t>;
    Turn(BuildTurns& turns, Key key) : turns_(&turns), key_(key) {}
    BuildTurns* turns_;
    Key key_;
  };
  /// kBusy when another has it.
  Result<Turn> take(NamespaceId in, SnapshotId snapshot);

 private:
  void give_back(Turn::Key key);

  std::mutex mutex_;
  std::set<Turn::Key> taken_;  // guarded by mutex_
};

/// A snapshot's working set being made anew: of its recordings and one more, of its recordings
/// alone, or of the set of the snapshot that it came from. prepare() does a part of the work where
/// it may take its time, write() stores it where the store's writes are serialised; both in turns,
/// until the set is there. If the recordings are others by then, the work begins again. What is
/// made depends on the recordings alone.
///
/// A recording that is there and cannot be read is left out, and deleted with the last write(). A
/// set of an ancestor that cannot be read is one that is not there.
///
/// Packs that are made and not written yet are kept in memory up to a limit. A build that fails
/// leaves none in the store. One thread at a time.
///
/// REQUIRES: one build for a snapshot at a time, which BuildTurns sees to.
class WorkingSetBuild {
 public:
  /// Takes in a sealed recording; of the older ones so many stay that `kept` are there then.
  /// kNotFound when there is no such snapshot, kInvalidArgument when the recording is of another
  /// one, and what decode_recording() says. REQUIRES: kept is 1 to limits::kMaxRecordings.
  static Result<WorkingSetBuild> of_recording(Store& store, NamespaceId in, SnapshotId snapshot,
                                              ByteSpan sealed, std::size_t kept);
  /// For a snapshot without a set: it is made of the recordings, if there are any, since then it
  /// was withdrawn, or else inherited from the nearest snapshot that it came from which has one.
  static Result<WorkingSetBuild> of_what_is_there(Store& store, NamespaceId in,
                                                  SnapshotId snapshot);

  /// kNotFound when there is nothing to make it of.
  Result<void> prepare();
  /// [writer] Nothing when prepare() is to go on. Returns the sealed set of the snapshot once it is
  /// stored with its recording; it is another one if nothing was to be stored: the snapshot has got
  /// one, or it has the recording. kNotFound when the snapshot was deleted meanwhile,
  /// kQuotaExceeded, kBusy when the recordings change too often.
  Result<std::optional<Bytes>> write();

 private:
  WorkingSetBuild(Store& store, NamespaceId in, Manifest manifest)
      : store_(store), name_space_(in), manifest_(std::move(manifest)) {}

  WorkingSetStore& sets() const { return store_.working_sets(); }
  /// Finds out what the set consists of.
  Result<void> begin();
  Result<void> make_packs();
  Result<std::optional<Bytes>> write_next();
  /// Has prepare() begin again.
  Result<std::optional<Bytes>> restart();
  /// Fills recordings_ and unreadable_.
  Result<void> read_recordings();
  /// Fills set_ but for its packs. False when the store has changed in between.
  Result<bool> rank_recordings();
  /// Compares the new recording with the set that is there. False as above.
  Result<bool> judge_recording();
  struct Ancestor {
    Manifest manifest;
    WorkingSet set;
  };
  /// The nearest one that has a set; kNotFound.
  Result<Ancestor> find_ancestor() const;
  bool packs_left() const { return made_packs_ < pack_pages_.size(); }
  Result<Bytes> make_pack();

  Store& store_;
  const NamespaceId name_space_;
  const Manifest manifest_;
  std::optional<Recording> recording_;  // nothing: none that is not there already
  std::size_t kept_ = 0;

  // What begin() found; all of it is set anew by the next.
  bool begun_ = false;
  bool prepared_ = false;  // pages and packs of the set are known
  bool is_known_ = false;  // the recording is there: its sender was not told, and sent it again
  WorkingSetState state_;  // that it stands on
  struct NumberedRecording {
    std::uint64_t number;
    Recording recording;
  };
  std::vector<NumberedRecording> recordings_;        // that are there, oldest first
  std::map<std::uint64_t, std::string> unreadable_;  // why, by number
  message::RecordingSummary summary_;
  std::uint64_t oldest_kept_ = 0;
  WorkingSet set_;
  std::vector<std::vector<PackPage>> pack_pages_;
  std::size_t made_packs_ = 0;
  std::size_t written_packs_ = 0;
  std::vector<Bytes> held_;  // the next packs, not written yet
  unsigned restarts_ = 0;
  std::optional<Error> failure_;  // of a prepare() after which packs are to be discarded

  ChunkCodec chunk_codec_;
  PackCodec pack_codec_;
};

}  // namespace thaw
