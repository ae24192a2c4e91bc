#pragma once

#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/file_watch.h"
#include "format/wire.h"

namespace thaw {

/// What a peer may do in a namespace: see everything and report what its guests touched, store
/// snapshots, or all that there is. Making the namespace and moving tags are rights of their own,
/// which kAdmin has too.
enum class Right : std::uint8_t { kRead = 1, kPush = 2, kAdmin = 4, kCreate = 8, kTag = 16 };

/// Some of the rights. A value.
class Rights {
 public:
  constexpr Rights() = default;
  constexpr Rights(std::initializer_list<Right> rights) {
    for (const Right right : rights) bits_ |= static_cast<std::uint8_t>(right);
  }
  /// Each of which lets a peer see what there is.
  static constexpr Rights all() { return {Right::kRead, Right::kPush, Right::kTag, Right::kAdmin}; }

  constexpr bool none() const { return bits_ == 0; }
  constexpr bool has_one_of(Rights others) const { return (bits_ & others.bits_) != 0; }
  constexpr void add(Rights others) { bits_ |= others.bits_; }
  friend constexpr bool operator==(const Rights&, const Rights&) = default;

 private:
  std::uint8_t bits_ = 0;
};

/// What a request takes: one of these rights.
Rights rights_for(const Message& request);
/// Whether it concerns the store of all namespaces, so that the right is needed in all of them.
bool concerns_all_namespaces(const Message& request);

/// What the identity of a user of this host begins with; his number follows.
inline constexpr std::string_view kUserIdentity = "uid:";

/// Who may do what, as a file says it (see ARCHITECTURE.md). Immutable.
class Policy {
 public:
  /// kInvalidArgument for text that is no policy, with the place; what it does not know it refuses.
  static Result<Policy> parse(std::string_view toml);

  /// Lets root and `server_user` do everything, unless the policy names a user of this host.
  void admit_users(std::uint32_t server_user);

  /// None for a peer that is not named.
  Rights rights(std::string_view identity, std::string_view name_space) const;
  Rights rights_in_all(std::string_view identity) const;
  /// Whether the peer may do something in some namespace.
  bool names(std::string_view identity) const;

  /// How much the namespaces of a grant may have stored, together, when its peer stores more.
  struct Quota {
    std::uint64_t bytes;
    std::vector<std::string> namespaces;  // with a "*" at the end: all that begin so
    bool covers(std::string_view name_space) const;
  };
  /// Those of the peer's grants for the namespace.
  std::vector<Quota> quotas(std::string_view identity, std::string_view name_space) const;

 private:
  struct Grant {
    std::string identity;
    Rights rights;
    bool has_quota = false;
    Quota quota{};
  };
  std::vector<Grant> grants_;
};

/// The policy in force. Its file is read again when it has changed; one that has become bad is told
/// of, and what was read before stays in force. Locks itself.
class Access {
 public:
  /// Without a path, the policy names no peer. With a server's user, peers are users of this host.
  static Result<std::unique_ptr<Access>> load(const std::string& path,
                                              std::optional<std::uint32_t> server_user = {});

  /// Reads the file if it has changed.
  void refresh();
  /// Reads the file. If it is no good, what was read before stays in force.
  void reload();
  /// Grows with each change, after which rights are to be asked for again.
  std::uint64_t generation() const { return generation_.load(std::memory_order_acquire); }
  std::shared_ptr<const Policy> policy() const;

 private:
  Access(std::string path, std::optional<std::uint32_t> server_user)
      : path_(std::move(path)), server_user_(server_user), watch_({path_}) {}
  Result<std::shared_ptr<const Policy>> read() const;

  const std::string path_;
  const std::optional<std::uint32_t> server_user_;
  FileWatch watch_;
  std::atomic<std::uint64_t> generation_ = 0;
  mutable std::mutex mutex_;
  std::shared_ptr<const Policy> policy_;  // guarded by mutex_
};

}  // namespace thaw
