#include "faulthandler/inheritance.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/bytes.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory_file.h"
#include "faulthandler/limits.h"

namespace thaw {

namespace {

constexpr const char* kGuardName = "guard";
constexpr const char* kProgramName = "program";
constexpr const char* kPreviousName = "previous";
constexpr const char* kUpgradesName = "upgrades";
constexpr const char* kUnservedName = "unserved";

/// Their number in 8 bytes, and the text.
Result<UniqueFd> keep_upgrades(const SessionKeep::Upgrades& upgrades) {
  Bytes bytes(8);
  store_le(bytes.data(), upgrades.settled);
  const ByteSpan text =
      as_bytes(std::string_view(upgrades.failure).substr(0, limits::kMaxKeepText));
  bytes.insert(bytes.end(), text.begin(), text.end());
  UniqueFd file = TRY(create_memory_file("thaw-upgrades", {bytes.size()}));
  TRY(write_at(file, bytes, 0));
  return file;
}

Result<SessionKeep::Upgrades> read_upgrades(const UniqueFd& file) {
  if (!file.valid()) return SessionKeep::Upgrades();
  const std::uint64_t size = TRY(file_size(file)).value;
  if (size < 8 || size > 8 + limits::kMaxKeepText) {
    return fail(ErrorCode::kMalformed, "a note of upgrades of {} bytes", size);
  }
  Bytes bytes(size);
  TRY(read_at(file, bytes, 0));
  return SessionKeep::Upgrades{.settled = load_le<std::uint64_t>(bytes.data()),
                               .failure = std::string(as_text(ByteSpan(bytes).subspan(8)))};
}

/// A time of the host's clock, which all processes share.
Result<UniqueFd> keep_time(Clock::time_point time) {
  Bytes bytes(8);
  store_le(bytes.data(), static_cast<std::uint64_t>(time.time_since_epoch().count()));
  UniqueFd file = TRY(create_memory_file("thaw-unserved", {bytes.size()}));
  TRY(write_at(file, bytes, 0));
  return file;
}

Result<std::optional<Clock::time_point>> read_time(const UniqueFd& file) {
  if (!file.valid()) return std::optional<Clock::time_point>();
  Bytes bytes(8);
  TRY(read_at(file, bytes, 0));
  const Clock::time_point time{
      Clock::duration(static_cast<std::int64_t>(load_le<std::uint64_t>(bytes.data())))};
  return std::optional(std::min(time, Clock::now()));
}

}  // namespace

UniqueFd take_passed(std::vector<NamedDescriptor>& passed, const std::string& name) {
  const auto found = std::ranges::find(passed, name, &NamedDescriptor::name);
  if (found == passed.end()) return {};
  UniqueFd taken = std::move(found->descriptor);
  passed.erase(found);
  return taken;
}

Inheritance take_inheritance(std::vector<NamedDescriptor>& passed) {
  Inheritance inheritance{.settings = take_passed(passed, kSettingsName),
                          .guard = take_passed(passed, kGuardName),
                          .program = take_passed(passed, kProgramName),
                          .previous = take_passed(passed, kPreviousName)};
  const UniqueFd note = take_passed(passed, kUpgradesName);
  inheritance.of_upgrade = note.valid();
  auto upgrades = read_upgrades(note);
  if (upgrades) {
    inheritance.upgrades = *std::move(upgrades);
  } else {
    log_error("{}", upgrades.error().message());
  }
  auto since = read_time(take_passed(passed, kUnservedName));
  if (since) {
    inheritance.unserved_since = *since;
  } else {
    log_error("{}", since.error().message());
  }
  return inheritance;
}

Result<void> add_inheritance(std::vector<NamedDescriptor>& passed, Inheritance inheritance) {
  UniqueFd upgrades = TRY(keep_upgrades(inheritance.upgrades));
  UniqueFd unserved;
  if (inheritance.unserved_since) unserved = TRY(keep_time(*inheritance.unserved_since));
  for (auto [name, descriptor] :
       {std::pair(kSettingsName, &inheritance.settings), std::pair(kGuardName, &inheritance.guard),
        std::pair(kProgramName, &inheritance.program),
        std::pair(kPreviousName, &inheritance.previous), std::pair(kUpgradesName, &upgrades),
        std::pair(kUnservedName, &unserved)}) {
    if (descriptor->valid()) passed.push_back({name, std::move(*descriptor)});
  }
  return {};
}

}  // namespace thaw
