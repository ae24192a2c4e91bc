#pragma once

#include <cstddef>

namespace thaw {

/// How the descriptors that the process may have are shared out.
struct DescriptorShares {
  std::size_t connections;  // that have said hello
  std::size_t strangers;    // that have not yet
  std::size_t tables;       // that RocksDB may have open at one time
};

/// `limit` is what the process may have, `wanted` how many connections are to be served. Tables get
/// what is left, and at least as many as peers.
DescriptorShares share_descriptors(std::size_t limit, std::size_t wanted);

}  // namespace thaw
