#include "tests/support/disk_mirror.h"

#include <algorithm>
#include <filesystem>

#include <fcntl.h>
#include <sys/sendfile.h>

#include "base/check.h"
#include "base/unique_fd.h"

namespace thaw::test {

namespace {

/// Copies [from, to) and makes the file end there.
void copy_bytes(const std::string& source, const std::string& target, std::uint64_t from,
                std::uint64_t to) {
  const UniqueFd in(::open(source.c_str(), O_RDONLY | O_CLOEXEC));
  const UniqueFd out(::open(target.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  CHECK(in.valid() && out.valid());
  std::filesystem::resize_file(target, to);
  auto at = static_cast<off_t>(from);
  CHECK(::lseek(out.get(), at, SEEK_SET) == at);
  while (at < static_cast<off_t>(to)) {
    CHECK(::sendfile(out.get(), in.get(), &at, to - static_cast<std::uint64_t>(at)) > 0);
  }
}

}  // namespace

DiskMirror::DiskMirror(std::string directory, std::string disk, Names names)
    : directory_(std::move(directory)), disk_(std::move(disk)), names_(names) {}

std::shared_ptr<MirroredFile> DiskMirror::find(const std::string& name) {
  const auto known = files_.find(name);
  if (known != files_.end()) return known->second;
  auto file = std::make_shared<MirroredFile>();
  file->names.insert(name);
  // One that was there before the program: both sides began alike.
  std::error_code missing;
  const auto size = std::filesystem::file_size(disk_ + "/" + name, missing);
  if (!missing) file->synced = size;
  return files_[name] = std::move(file);
}

std::shared_ptr<MirroredFile> DiskMirror::open(const std::string& name, Opened opened) {
  auto file = find(name);
  if (opened == Opened::kFound) return file;
  file->synced = 0;
  note({NameChange::Kind::kCreate, {}, name, file});
  return file;
}

void DiskMirror::change(MirroredFile& file, std::uint64_t from) {
  file.synced = std::min(file.synced, from);
}

void DiskMirror::rename(const std::string& from, const std::string& to) {
  if (std::filesystem::is_directory(directory_ + "/" + to)) {
    while (true) {
      const auto inside = files_.lower_bound(from + "/");
      if (inside == files_.end() || !inside->first.starts_with(from + "/")) break;
      move_name(inside->first, to + inside->first.substr(from.size()));
    }
    note({NameChange::Kind::kRename, from, to, nullptr});
    return;
  }
  note({NameChange::Kind::kRename, from, to, move_name(from, to)});
}

std::shared_ptr<MirroredFile> DiskMirror::move_name(std::string from, std::string to) {
  auto file = find(from);
  if (const auto replaced = files_.find(to); replaced != files_.end()) {
    replaced->second->names.erase(to);
  }
  files_.erase(from);
  file->names.erase(from);
  file->names.insert(to);
  files_[std::move(to)] = file;
  return file;
}

void DiskMirror::link(const std::string& from, const std::string& to) {
  auto file = find(from);
  file->names.insert(to);
  files_[to] = file;
  note({NameChange::Kind::kLink, from, to, file});
}

void DiskMirror::unlink(const std::string& name) {
  auto file = find(name);
  file->names.erase(name);
  files_.erase(name);
  note({NameChange::Kind::kUnlink, name, {}, std::move(file)});
}

void DiskMirror::make_directory(const std::string& name) {
  note({NameChange::Kind::kMakeDirectory, {}, name, nullptr});
}

void DiskMirror::remove_directory(const std::string& name) {
  note({NameChange::Kind::kUnlink, name, {}, nullptr});
}

void DiskMirror::note(NameChange change) {
  if (names_ == Names::kAtOnce) {
    apply(change);
  } else {
    pending_.push_back(std::move(change));
  }
}

void DiskMirror::apply(const NameChange& change) {
  namespace fs = std::filesystem;
  const std::string from = disk_ + "/" + change.from;
  const std::string to = disk_ + "/" + change.to;
  switch (change.kind) {
    case NameChange::Kind::kCreate:
      CHECK(UniqueFd(::open(to.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600)).valid());
      break;
    case NameChange::Kind::kRename:
      fs::rename(from, to);
      break;
    case NameChange::Kind::kLink:
      fs::create_hard_link(from, to);
      break;
    case NameChange::Kind::kUnlink:
      fs::remove(from);
      break;
    case NameChange::Kind::kMakeDirectory:
      fs::create_directory(to);
      break;
  }
}

void DiskMirror::sync_names() {
  for (const NameChange& change : pending_) apply(change);
  pending_.clear();
}

void DiskMirror::sync(MirroredFile& file, Amount amount) {
  const bool renamed = std::ranges::any_of(
      pending_, [&](const NameChange& change) { return change.file.get() == &file; });
  if (renamed) sync_names();
  if (file.names.empty()) return;
  const std::string name = "/" + *file.names.begin();
  const std::uint64_t size = std::filesystem::file_size(directory_ + name);
  const std::uint64_t from = std::min(file.synced, size);
  const std::uint64_t to = amount == Amount::kAll ? size : from + (size - from) / 2;
  copy_bytes(directory_ + name, disk_ + name, from, to);
  file.synced = to;
}

}  // namespace thaw::test
