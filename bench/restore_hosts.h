#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "bench/delay_relay.h"
#include "bench/image.h"
#include "bench/network.h"
#include "bench/sys/image_stream.h"
#include "format/control.h"
#include "format/page_client.h"
#include "format/recording.h"
#include "tests/support/programs.h"
#include "tests/support/scratch_directory.h"

namespace thaw::bench {

/// What a relay adds to a round trip, where that is asked for.
inline constexpr std::chrono::microseconds kDelay{200};

/// A guest that was saved, and what it touched after its restores.
struct SavedGuest {
  std::string name;
  std::string directory;
  ImageFile image;
  std::vector<Recording> recordings;

  std::string memory() const { return directory + "/memory"; }
  std::string state() const { return directory + "/state"; }
};
/// The guests below `directory`, each with at least two recordings. kInvalidArgument.
Result<std::vector<SavedGuest>> load_guests(const std::string& directory);

/// How long a replay took, in seconds: from the command to restore to the last page, and from
/// having the memory to the first; and of each touch in microseconds.
struct Replayed {
  double wall_s = 0;
  double first_touch_us = 0;
  std::vector<double> touch_us;
  double bytes = 0;  // that came over the link
  SessionReport session;
};

enum class Brought { kWorkingSet, kOnDemand };
/// Whether neighbours of a demanded page come along.
enum class Around { kYes, kNo };

/// The two hosts of the bench with all their programs: page server, fault handlers, and what they
/// are compared with. One thread.
class RestoreHosts {
 public:
  /// Pushes the guests.
  static Result<std::unique_ptr<RestoreHosts>> start(const std::vector<SavedGuest>& guests);

  /// From now on what is measured goes over this link.
  Result<void> use(const Link& link);

  /// Makes the guest's working set of these recordings alone.
  Result<WorkingSet> make_set(const SavedGuest& guest, const std::vector<Recording>& recordings);

  Result<Replayed> replay_session(const SavedGuest& guest, std::span<const std::uint32_t> pages,
                                  Brought brought, Around around);
  Result<Replayed> replay_local(const SavedGuest& guest, std::span<const std::uint32_t> pages);
  Result<Replayed> replay_download(const SavedGuest& guest, std::span<const std::uint32_t> pages);
  Result<Replayed> replay_nbd(const SavedGuest& guest, std::span<const std::uint32_t> pages);

  /// Seconds until the real VMM's guest has answered its first request.
  Result<double> first_output(const SavedGuest& guest, Brought brought);
  Result<double> first_output_local(const SavedGuest& guest);

 private:
  struct Handler {
    std::string control;
    test::Program program;
  };
  using Handlers = std::map<Around, Handler>;

  RestoreHosts() = default;
  Result<void> start_programs(const std::vector<SavedGuest>& guests);
  Result<Handlers> start_handlers(const std::string& name, const std::string& server);
  /// A replay that is ready to begin.
  Result<test::Program> start_replay(const SavedGuest& guest, std::span<const std::uint32_t> pages,
                                     const std::vector<std::string>& source);
  /// From memory that needs no session.
  Result<Replayed> replay(const SavedGuest& guest, std::span<const std::uint32_t> pages,
                          const std::vector<std::string>& source);
  Result<Replayed> finish_replay(test::Program& replay, Clock::time_point start,
                                 std::uint64_t bytes_before);
  Result<control::Prepared> prepare(const SavedGuest& guest, Brought brought, Around around,
                                    const std::string& socket, const std::string& state_out);
  const Handler& handler(Around around) const { return (is_late_ ? late_ : direct_).at(around); }
  std::string pages_path() const { return scratch_.path("pages"); }

  struct Export {
    test::Program nbdkit;
    std::string address;
  };
  // Ended from the last to the first.
  test::ScratchDirectory scratch_;
  test::ScratchDirectory memory_{"/dev/shm"};
  std::unique_ptr<TwoHosts> network_;
  std::optional<test::PageServer> server_;
  std::map<std::string, std::unique_ptr<ImageSender>> images_;  // by guest, as all these
  std::map<std::string, Export> exports_;
  std::unique_ptr<DelayRelay> late_server_;
  std::map<std::string, std::unique_ptr<DelayRelay>> late_images_;
  std::map<std::string, std::unique_ptr<DelayRelay>> late_exports_;
  Handlers direct_;
  Handlers late_;
  bool is_late_ = false;  // of the link in use
  unsigned names_ = 0;
};

}  // namespace thaw::bench
