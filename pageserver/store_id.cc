#include "pageserver/store_id.h"

#include <charconv>
#include <filesystem>
#include <utility>

#include "base/file.h"
#include "base/partial_file.h"
#include "base/random.h"

namespace thaw {

namespace {

constexpr std::size_t kMostBytes = 64;

std::string path_in(const std::string& directory) { return directory + "/" + kStoreIdFile; }

Result<StoreId> parse(std::string_view text) {
  StoreId id;
  for (std::size_t i = 0; i < id.bytes.size() && text.size() >= 2 * i + 2; ++i) {
    unsigned value = 0;
    const char* const digits = text.data() + 2 * i;
    if (std::from_chars(digits, digits + 2, value, 16).ptr != digits + 2) break;
    id.bytes[i] = static_cast<std::byte>(value);
  }
  // Anything but 32 digits and a newline does not come out the same.
  if (!id.valid() || text != id.text() + "\n") {
    return fail(ErrorCode::kCorrupt, "{} has no store's id", kStoreIdFile);
  }
  return id;
}

Result<StoreId> draw(const std::string& path) {
  StoreId id;
  TRY(fill_random(id.bytes));
  TRY(write_whole_file(path, as_bytes(id.text() + "\n")));
  return id;
}

/// A process may be confined to the directory that it was started with, and not be allowed to read
/// the one that has come instead.
template <typename T>
Result<std::optional<T>> if_reachable(Result<T> found) {
  if (!found && found.error().code() == ErrorCode::kPermission) return std::optional<T>();
  return if_found(std::move(found));
}

}  // namespace

Result<StoreId> open_store_id(const std::string& directory) {
  const auto id = TRY(if_found(read_store_id(directory)));
  return id ? *id : draw(path_in(directory));
}

bool has_store_id(const std::string& directory) {
  std::error_code ignored;
  const auto status = std::filesystem::symlink_status(path_in(directory), ignored);
  return std::filesystem::exists(status);
}

std::optional<std::string> store_id_damage(const std::string& directory) {
  const auto id = read_store_id(directory);
  if (id) return std::nullopt;
  switch (id.error().code()) {
    case ErrorCode::kCorrupt:
    case ErrorCode::kTooLarge:
    case ErrorCode::kInvalidArgument:  // no file
    case ErrorCode::kIo:
      return fmt::format("{} is damaged: {}", kStoreIdFile, id.error().message());
    default:
      return std::nullopt;
  }
}

Result<StoreId> read_store_id(const std::string& directory) {
  return parse(TRY(read_text_file(path_in(directory), kMostBytes)));
}

Result<StoreWatch> StoreWatch::begin(std::string directory) {
  StoreWatch watch;
  watch.file_ = TRY(file_identity(path_in(directory)));
  watch.id_ = TRY(read_store_id(directory));
  watch.directory_ = std::move(directory);
  return watch;
}

Result<void> StoreWatch::look() const {
  const auto file = TRY(if_reachable(file_identity(path_in(directory_))));
  const auto id = TRY(if_reachable(read_store_id(directory_)));
  if (file == file_ && id == id_) return {};
  return fail(ErrorCode::kWrongStore, "the store in {} was replaced by another one", directory_);
}

}  // namespace thaw
