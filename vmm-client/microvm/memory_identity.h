#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/types.h"
#include "base/unique_fd.h"

namespace thaw {

/// What ties a VM's state to the memory that was captured with it. A state that goes on in other
/// memory computes nonsense without a word, so a restore compares before a vCPU runs. There are two
/// names, because memory that arrives lazily cannot be read as a whole:
///
///   content    of all memory; a restore from a file compares it
///   witnesses  of the pages where the vCPUs stand, which they touch first anyway; each restore
///              compares those

/// A page and the XXH3-64 of its content.
struct PageWitness {
  PageIndex page;
  std::uint64_t hash = 0;
};

/// What a piece of memory adds to its content name: pieces have this size, the last one may be
/// shorter.
inline constexpr std::size_t kIdentityPieceBytes = 4u << 20;
std::uint64_t hash_piece(ByteSpan piece);
/// Names memory by the hashes of its pieces in order.
std::uint64_t name_content(const std::vector<std::uint64_t>& pieces);

/// kChecksumMismatch when the file has other content than its name says. Several threads read it.
Result<void> check_content(const UniqueFd& file, ByteCount size, std::uint64_t content);

/// The pages at these guest addresses, each once; addresses outside the memory have none.
std::vector<PageWitness> take_witnesses(const std::vector<std::uint64_t>& addresses,
                                        ByteSpan memory);
/// kChecksumMismatch when a page has other content. Waits for pages that are missing. REQUIRES: the
/// pages are in the memory.
Result<void> check_witnesses(const std::vector<PageWitness>& witnesses, ByteSpan memory);

}  // namespace thaw
