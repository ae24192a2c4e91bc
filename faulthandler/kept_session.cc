#include "faulthandler/kept_session.h"

#include <charconv>

#include <fmt/core.h>

#include "base/place.h"

namespace thaw {

namespace {
constexpr std::string_view kLeavingDoor = "door.";
}

std::string kept_name(std::uint64_t session, KeptRole role) {
  return fmt::format("{}.{}", session, static_cast<unsigned>(role));
}

std::optional<KeptName> parse_kept_name(std::string_view name) {
  const char* const end = name.data() + name.size();
  KeptName read{};
  unsigned role = kKeptRoles;
  const auto session = std::from_chars(name.data(), end, read.session);
  if (session.ec != std::errc() || session.ptr == end || *session.ptr != '.') return std::nullopt;
  const auto rest = std::from_chars(session.ptr + 1, end, role);
  if (rest.ec != std::errc() || rest.ptr != end || role >= kKeptRoles) return std::nullopt;
  read.role = static_cast<KeptRole>(role);
  return read;
}

std::string leaving_door_name(uid_t user) { return fmt::format("{}{}", kLeavingDoor, user); }

std::optional<uid_t> parse_leaving_door_name(std::string_view name) {
  if (!name.starts_with(kLeavingDoor)) return std::nullopt;
  name.remove_prefix(kLeavingDoor.size());
  uid_t user = 0;
  const auto read = std::from_chars(name.data(), name.data() + name.size(), user);
  if (read.ec != std::errc() || read.ptr != name.data() + name.size()) return std::nullopt;
  return user;
}

UniqueFd& KeptSession::operator[](KeptRole role) {
  auto& descriptor = descriptors_[static_cast<std::size_t>(role)];
  if (descriptor == nullptr) descriptor = std::make_shared<UniqueFd>();
  return *descriptor;
}

const UniqueFd& KeptSession::operator[](KeptRole role) const {
  static const UniqueFd kNone;
  const auto& descriptor = descriptors_[static_cast<std::size_t>(role)];
  return descriptor == nullptr ? kNone : *descriptor;
}

std::uint32_t KeptSession::roles() const {
  std::uint32_t roles = 0;
  for_each([&](KeptRole role, const UniqueFd&) { roles |= 1u << static_cast<unsigned>(role); });
  return roles;
}

KeptSession KeptSession::share_some(std::initializer_list<KeptRole> roles) const {
  KeptSession shared;
  for (const KeptRole role : roles) {
    const auto index = static_cast<std::size_t>(role);
    shared.descriptors_[index] = descriptors_[index];
  }
  return shared;
}

KeptSession KeptSession::share_socket() const {
  return share_some({KeptRole::kListener, KeptRole::kSocketDirectory, KeptRole::kSocketFile});
}

KeptSession KeptSession::share_entrance() const {
  return share_some({KeptRole::kListener, KeptRole::kSocketFile, KeptRole::kImageView});
}

Result<void> KeptSession::remove_socket(const std::string& name) {
  if (!has(KeptRole::kSocketFile) || !has(KeptRole::kSocketDirectory)) return {};
  const auto removed =
      remove_entry((*this)[KeptRole::kSocketDirectory], name, (*this)[KeptRole::kSocketFile]);
  for (const KeptRole role : {KeptRole::kSocketDirectory, KeptRole::kSocketFile}) {
    drop(role);
  }
  return removed;
}

void KeptSession::add(KeptSession other) {
  for (std::size_t i = 0; i < kKeptRoles; ++i) {
    if (other.has(static_cast<KeptRole>(i))) descriptors_[i] = std::move(other.descriptors_[i]);
  }
}

}  // namespace thaw
