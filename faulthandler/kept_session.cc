#include "faulthandler/kept_session.h"

#include <charconv>

#include "base/file.h"

namespace thaw {

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

std::uint32_t KeptSession::roles() const {
  std::uint32_t roles = 0;
  for (std::size_t i = 0; i < kKeptRoles; ++i) {
    if (descriptors_[i].valid()) roles |= 1u << i;
  }
  return roles;
}

Result<KeptSession> KeptSession::duplicate() const {
  KeptSession copy;
  for (std::size_t i = 0; i < kKeptRoles; ++i) {
    if (descriptors_[i].valid()) copy.descriptors_[i] = TRY(thaw::duplicate(descriptors_[i]));
  }
  return copy;
}

void KeptSession::add(KeptSession other) {
  for (std::size_t i = 0; i < kKeptRoles; ++i) {
    if (other.descriptors_[i].valid()) descriptors_[i] = std::move(other.descriptors_[i]);
  }
}

}  // namespace thaw
