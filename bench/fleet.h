#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/types.h"
#include "format/control.h"
#include "tests/support/programs.h"

namespace thaw::bench {

/// The real programs of a run, started for it and killed with their objects.

/// Whether a program has ended well; what it said otherwise.
Result<void> succeed(const test::Outcome& outcome, const std::string& what);

/// What a guest is told to touch, and how many microseconds each touch took it.
Result<void> write_pages(const std::string& path, std::span<const std::uint32_t> pages);
Result<std::vector<double>> read_touch_times(const std::string& path);

/// Pushes the image to the server as the snapshot that every guest restores, reads it back so that
/// the store's cache is warm, and restarts the server, which moves all chunks from its log into
/// tables before. `flags` are those of `thaw`.
Result<void> push_image(test::PageServer& server, const std::string& image,
                        const std::string& scratch, const std::vector<std::string>& flags = {});

/// The name of what push_image() pushes.
inline constexpr const char* kSnapshot = "bench";

/// Where the pages of a guest come from.
enum class GuestKind { kOwn, kShared, kFile, kPresent };

/// What a process has of the memory that it maps from files whose path contains `path_part`, a
/// page that n processes have counted as an n-th.
Result<ByteCount> proportional_bytes(pid_t process, const std::string& path_part);

/// A fault handler. One thread.
class Handler {
 public:
  /// `base` is a path of its own, to which the names of its files are appended. `prepare_flags` are
  /// those of every `thaw prepare`.
  static Result<Handler> start(const std::string& base, const std::string& server,
                               const std::vector<std::string>& flags,
                               const std::vector<std::string>& prepare_flags = {});
  Handler(Handler&&) = default;

  /// The process that serves.
  pid_t pid() const { return program_.worker(); }
  /// The socket of a new session.
  Result<std::string> prepare(GuestKind kind = GuestKind::kOwn,
                              const std::string& snapshot = kSnapshot);
  /// What has become of the last session that was prepared.
  Result<SessionReport> last_session();
  /// A path of its own for the files of a guest that it does not serve.
  std::string scratch_path() { return fmt::format("{}.guest{}", base_, ++guests_); }
  /// The end of what it has written to its log.
  std::string last_words() const;

 private:
  Handler(test::Program program, std::string base, std::vector<std::string> prepare_flags)
      : program_(std::move(program)),
        base_(std::move(base)),
        prepare_flags_(std::move(prepare_flags)) {}

  test::Program program_;
  std::string base_;
  std::vector<std::string> prepare_flags_;
  unsigned sessions_ = 0;
  unsigned guests_ = 0;
};

/// A guest process that touches pages of its memory as it is told. One thread.
class Guest {
 public:
  /// Starts the guest with a new session; `cpu` is where all its threads run.
  static Result<Guest> start(Handler& handler, const std::string& image,
                             std::optional<unsigned> cpu = {}, GuestKind kind = GuestKind::kOwn);
  Guest(Guest&&) = default;

  pid_t pid() const { return program_.pid(); }

  struct Touched {
    std::vector<double> us;   // of each touch
    double seconds = 0;       // for all
    std::size_t present = 0;  // pages that were there before their touch, when probed
  };
  /// Touches the pages, each of which must not have been touched before.
  Result<Touched> touch(std::span<const std::uint32_t> pages, unsigned threads = 1);
  /// The same in two steps, so that several guests touch at once.
  Result<void> begin_touch(std::span<const std::uint32_t> pages, unsigned threads);
  Result<Touched> finish_touch();
  /// Touches on one thread and counts what is present before.
  Result<Touched> probe(std::span<const std::uint32_t> pages);

  /// Pages present in its memory, once their number stays the same.
  Result<std::size_t> count_present();
  /// Compares every byte of the pages present, touched or brought around them, with the image, and
  /// ends the guest.
  Result<void> verify_and_end();

 private:
  Guest(test::Program program, const Handler& handler, std::string base)
      : program_(std::move(program)), handler_(&handler), base_(std::move(base)) {}
  Result<void> begin(const char* command, std::span<const std::uint32_t> pages, unsigned threads);
  /// The rest of the reply that begins with `expected`; any other reply is a failure.
  Result<std::string> reply(const std::string& expected);

  test::Program program_;
  const Handler* handler_;
  std::string base_;
};

}  // namespace thaw::bench
