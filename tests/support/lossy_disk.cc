#include "tests/support/lossy_disk.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "tests/support/test_support.h"

namespace thaw::test {

namespace fs = std::filesystem;

namespace {

std::vector<fs::path> files_below(const fs::path& directory) {
  std::vector<fs::path> names;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_regular_file()) names.push_back(entry.path().lexically_relative(directory));
  }
  std::ranges::sort(names);  // so that a seed means the same every time
  return names;
}

/// Tables are written once, so those that are whole on both sides stay.
bool is_same_table(const fs::path& a, const fs::path& b) {
  std::error_code missing;
  return a.extension() == ".sst" && fs::file_size(a, missing) == fs::file_size(b, missing) &&
         !missing;
}

/// Makes `to` a copy of `from`.
void copy_tree(const fs::path& from, const fs::path& to) {
  for (const fs::path& name : files_below(to)) {
    if (!fs::exists(from / name)) fs::remove(to / name);
  }
  for (const fs::path& name : files_below(from)) {
    if (is_same_table(from / name, to / name)) continue;
    fs::create_directories((to / name).parent_path());
    fs::copy_file(from / name, to / name, fs::copy_options::overwrite_existing);
  }
}

/// Appends a random part of what only `view` has.
void tear(const fs::path& view, const fs::path& disk, std::mt19937_64& generator) {
  std::error_code missing;
  const auto written = fs::file_size(view, missing);
  const auto synced = fs::file_size(disk, missing);
  if (missing || written <= synced) return;
  const auto end = synced + pick(generator, written - synced + 1);
  const Bytes content = read_file(view);
  std::ofstream(disk, std::ios::binary | std::ios::app)
      << as_text(ByteSpan(content).subspan(synced, end - synced));
}

}  // namespace

LossyDisk::LossyDisk() {
  fs::create_directory(directory());
  fs::create_directory(disk());
}

std::string LossyDisk::fault_file(Fault fault) const {
  return scratch_.path(fault == Fault::kFull ? "full" : "unreadable");
}

Surroundings LossyDisk::surroundings(const Fate& fate) const {
  return {.cpus = {},
          .messages = messages(),
          .environment = {{"LD_PRELOAD", program_path("lossy-disk.so")},
                          {"THAW_DISK_VIEW", directory()},
                          {"THAW_DISK", disk()},
                          // The disk is none of the files that the program is left with.
                          {"THAW_NO_SANDBOX", "1"},
                          {"THAW_DISK_NAMES", fate.names == Names::kAtOnce ? "now" : "synced"},
                          {"THAW_DISK_KILL", fate.kill_at},
                          {"THAW_DISK_FULL", fault_file(Fault::kFull)},
                          {"THAW_DISK_BAD", fault_file(Fault::kUnreadable)}}};
}

void LossyDisk::begin(Fault fault) { std::ofstream{fault_file(fault)}; }
void LossyDisk::end(Fault fault) { fs::remove(fault_file(fault)); }

void LossyDisk::cut_power(Tail tail, std::mt19937_64& generator) {
  if (tail == Tail::kTorn) {
    for (const fs::path& name : files_below(directory())) {
      tear(fs::path(directory()) / name, fs::path(disk()) / name, generator);
    }
  }
  copy_tree(disk(), directory());
}

void LossyDisk::keep_power() { copy_tree(directory(), disk()); }

}  // namespace thaw::test
