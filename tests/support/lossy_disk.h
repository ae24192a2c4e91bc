#pragma once

#include <random>
#include <string>

#include "tests/support/programs.h"
#include "tests/support/scratch_directory.h"

namespace thaw::test {

/// A directory for a program that is to lose what it did not sync, by lossy_disk_preload.cc: after
/// a SIGKILL, cut_power() puts into the directory what a disk would have. What was synced is there,
/// and of what was only written nothing, or the beginning.
///
/// Entries of a directory (new files, renames, removals) last in order, as a journal keeps them: at
/// once, or only with the next sync of the directory or of the file itself. Between the two are
/// disks that keep some of them; they are not tried. One thread.
class LossyDisk {
 public:
  /// When changed names are on the disk.
  enum class Names { kAtOnce, kWhenSynced };
  struct Fate {
    std::string kill_at;  // a point, as lossy_disk_preload.cc reads it; empty: none
    Names names = Names::kAtOnce;
  };

  LossyDisk();

  /// The directory to work in.
  std::string directory() const { return scratch_.path("view"); }
  /// What a program on this disk is started in; its messages go into a file.
  Surroundings surroundings(const Fate& fate) const;
  std::string messages() const { return scratch_.path("messages"); }

  /// From now on writes fail, or reads of some tables, until it is over.
  enum class Fault { kFull, kUnreadable };
  void begin(Fault fault);
  void end(Fault fault);

  // While no program is running:

  /// What was not synced is gone; a random part of what was appended may have arrived if `torn`.
  enum class Tail { kLost, kTorn };
  void cut_power(Tail tail, std::mt19937_64& generator);
  /// The program ended and the kernel lives: all that was written reaches the disk.
  void keep_power();

 private:
  std::string disk() const { return scratch_.path("disk"); }
  std::string fault_file(Fault fault) const;

  ScratchDirectory scratch_;
};

}  // namespace thaw::test
