#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/unique_fd.h"

namespace thaw {

/// What of a session outlives the process that serves it: descriptors, each with a role.
enum class KeptRole : std::uint8_t {
  kListener,     // where its VMM connects
  kRecord,       // a MemoryRecord
  kSnapshot,     // what keep_snapshot_image() wrote
  kImageFile,    // of a shared session: the host image, to be filled
  kImageView,    // the same to be given to VMMs
  kImageRecord,  // the image's MemoryRecord
  // From here on: once its VMM has come, or will not come any more.
  kArrival,  // what Arrival::describe() wrote
  kConnection,
  kPidfd,
  kUserfaultfd,
  kOtherUserfaultfds,  // that came beside it, in a handoff that is refused: hold_descriptors()
  // Until its VMM has come. At the end, because service managers know the numbers of the others.
  kSocketDirectory,  // where the listener has its name (O_PATH)
  kSocketFile,       // the listener in the file system (O_PATH)
  kTraceDirectory,   // where the trace of its window is to appear (O_PATH)
  // Never kept.
  kSignal,  // its other end is closed when no other process has the others
};
inline constexpr std::size_t kKeptRoles = 15;

/// What a service manager knows the descriptor by.
std::string kept_name(std::uint64_t session, KeptRole role);
/// Reads that back; nothing for another text.
struct KeptName {
  std::uint64_t session;
  KeptRole role;
};
std::optional<KeptName> parse_kept_name(std::string_view name);

/// The name, for the next supervisor, of a process that does not come to the end of closing what
/// this user has sent; and the same read back.
std::string leaving_door_name(uid_t user);
std::optional<uid_t> parse_leaving_door_name(std::string_view name);

/// The descriptors of one session; those that it does not have are not valid. Copies share them, so
/// that a copy costs none. One thread.
class KeptSession {
 public:
  KeptSession() = default;
  KeptSession(KeptSession&&) = default;
  KeptSession& operator=(KeptSession&&) = default;

  UniqueFd& operator[](KeptRole role);
  const UniqueFd& operator[](KeptRole role) const;
  bool has(KeptRole role) const { return (*this)[role].valid(); }
  /// Calls `visit(role, descriptor)` for each that it has.
  template <typename Visit>
  void for_each(Visit visit) const {
    for (std::size_t i = 0; i < kKeptRoles; ++i) {
      const auto role = static_cast<KeptRole>(i);
      if (has(role)) visit(role, (*this)[role]);
    }
  }
  /// A bit for each role that it has.
  std::uint32_t roles() const;
  /// The same descriptors; the last copy that goes closes them.
  KeptSession share() const { return *this; }
  /// The listener, its directory and its file alone.
  KeptSession share_socket() const;
  /// What a VMM needs to come in by: the listener, its file and the host image, if there is one.
  KeptSession share_entrance() const;
  /// Removes the name `name` of the socket, unless another file has it. Descriptors of the name are
  /// dropped. kPermission where this process may not change the directory.
  Result<void> remove_socket(const std::string& name);
  /// Has it no more; copies still do.
  void drop(KeptRole role) { descriptors_[static_cast<std::size_t>(role)].reset(); }
  /// Takes over those that `other` has.
  void add(KeptSession other);

 private:
  KeptSession(const KeptSession&) = default;
  KeptSession share_some(std::initializer_list<KeptRole> roles) const;

  // In this order they are closed from the last to the first: the userfaultfd before the
  // connection, whose end tells a VMM that it may unmap its memory.
  std::array<std::shared_ptr<UniqueFd>, kKeptRoles> descriptors_;  // nullptr: there is none
};

}  // namespace thaw
