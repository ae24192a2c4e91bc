#include "bench/backup_tools.h"

#include <filesystem>

#include "base/clock.h"
#include "bench/fleet.h"
#include "tests/support/programs.h"

namespace thaw::bench {

namespace {

using Words = std::vector<std::string>;

Words joined(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

/// A tool that is told by its environment what it would ask a person, and keeps all that it writes
/// beside the repository.
class Tool {
 public:
  Tool(std::string name, Words environment)
      : name_(std::move(name)),
        command_(joined({"env"}, joined(std::move(environment), {name_}))) {}

  Result<void> run(const Words& arguments) const {
    return succeed(test::run(joined(command_, arguments)), name_ + " " + arguments.front());
  }
  Result<double> seconds_of(const Words& arguments) const {
    const Clock::time_point start = Clock::now();
    TRY(run(arguments));
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

 private:
  std::string name_;
  Words command_;
};

}  // namespace

Result<Backup> back_up_with_restic(const Words& files, const std::string& directory) {
  const std::string repository = directory + "/repository";
  const Tool restic("restic", {"RESTIC_PASSWORD=bench", "RESTIC_REPOSITORY=" + repository,
                               "RESTIC_CACHE_DIR=" + directory + "/cache"});
  TRY(restic.run({"init", "--quiet"}));
  Backup backup;
  backup.seconds = TRY(restic.seconds_of(joined({"backup", "--quiet"}, files)));
  TRY(restic.run({"prune", "--quiet"}));
  backup.bytes = directory_bytes(repository);
  return backup;
}

Result<Backup> back_up_with_borg(const Words& files, const std::string& directory,
                                 const std::string& compression) {
  const std::string repository = directory + "/repository";
  const Tool borg("borg", {"BORG_BASE_DIR=" + directory});
  TRY(borg.run({"init", "--encryption", "none", repository}));
  Backup backup;
  backup.seconds =
      TRY(borg.seconds_of(joined({"create", "--compression", compression, "--chunker-params",
                                  "fixed,4096", repository + "::all"},
                                 files)));
  TRY(borg.run({"compact", repository}));
  backup.bytes = directory_bytes(repository);
  return backup;
}

double directory_bytes(const std::string& directory) {
  double bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (entry.is_regular_file()) bytes += static_cast<double>(entry.file_size());
  }
  return bytes;
}

}  // namespace thaw::bench
