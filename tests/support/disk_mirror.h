#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace thaw::test {

/// A file as the program has it: its names below the directory, and how much of it, from the start,
/// is known to be on the disk as well.
struct MirroredFile {
  std::set<std::string> names;
  std::uint64_t synced = 0;
};

/// Keeps a directory as a disk would have it that is told of every change of another directory, and
/// gets bytes by syncs alone. Names are paths below the directory. Whatever fails ends the process.
/// One thread at a time.
class DiskMirror {
 public:
  /// When a change of names reaches the disk: at once, or with a sync of a directory or of the file
  /// itself. Either way in order, as a journal does it.
  enum class Names { kAtOnce, kWhenSynced };
  DiskMirror(std::string directory, std::string disk, Names names);

  /// The file of this name, which was opened; `created` says by whom it was made.
  enum class Opened { kCreated, kFound };
  std::shared_ptr<MirroredFile> open(const std::string& name, Opened opened);
  /// Bytes from `from` on are no longer what the disk has.
  static void change(MirroredFile& file, std::uint64_t from);

  void rename(const std::string& from, const std::string& to);
  void link(const std::string& from, const std::string& to);
  void unlink(const std::string& name);
  void make_directory(const std::string& name);
  void remove_directory(const std::string& name);

  /// Brings a file to the disk, or only the first half of what the disk lacks.
  enum class Amount { kAll, kHalf };
  void sync(MirroredFile& file, Amount amount);
  void sync_names();

 private:
  struct NameChange {
    enum class Kind : std::uint8_t { kCreate, kRename, kLink, kUnlink, kMakeDirectory };
    Kind kind;
    std::string from;
    std::string to;
    std::shared_ptr<MirroredFile> file;  // nothing for a directory
  };
  void note(NameChange change);
  void apply(const NameChange& change);
  std::shared_ptr<MirroredFile> find(const std::string& name);
  std::shared_ptr<MirroredFile> move_name(std::string from, std::string to);

  const std::string directory_;
  const std::string disk_;
  const Names names_;
  std::map<std::string, std::shared_ptr<MirroredFile>> files_;  // those that were of interest yet
  std::vector<NameChange> pending_;
};

}  // namespace thaw::test
