#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/unique_fd.h"

namespace thaw::bench {

/// A link between two hosts.
struct Link {
  enum class Delay { kNone, kRelay };

  const char* name;
  std::uint64_t bits_per_s;  // 0: as fast as it goes
  Delay delay;
};

/// Two hosts on this machine: network namespaces joined by a veth pair. What a thread starts,
/// threads and processes alike, is on the host that it has gone to. Needs root. One thread, which
/// is back on its own host when this is destroyed.
class TwoHosts {
 public:
  /// kPermission without root, kUnsupported where the kernel shapes no traffic.
  static Result<std::unique_ptr<TwoHosts>> create();
  TwoHosts(const TwoHosts&) = delete;
  TwoHosts& operator=(const TwoHosts&) = delete;
  ~TwoHosts();

  static constexpr const char* kServerAddress = "10.73.1.1";

  Result<void> go_to_server();
  Result<void> go_to_client();
  /// Shapes both directions.
  Result<void> set_rate(std::uint64_t bits_per_s);
  /// Bytes that the client's end of the link has received. On the client.
  Result<std::uint64_t> bytes_received() const;

 private:
  TwoHosts() = default;
  Result<void> make();
  Result<void> go_to(const UniqueFd& host);

  std::string tag_;
  UniqueFd own_;
  UniqueFd server_;
  UniqueFd client_;
  bool shaped_ = false;
};

}  // namespace thaw::bench
