#pragma once

#include <map>
#include <set>
#include <string>

#include "format/page_client.h"

namespace thaw::test {

/// What a client of the store knows of what it has there. Of what was under way when the server
/// went, several outcomes are possible; settle() finds out which it is.
struct Ledger {
  struct Snapshot {
    std::string seeds;                // of its image
    std::set<std::string> marks{""};  // values that its label may have; empty text: none
    /// Under way: its push or its deletion was not acknowledged, so it is there whole or not at
    /// all.
    enum class Standing { kAcknowledged, kUnderWay } standing = Standing::kUnderWay;
  };
  /// One that is not here is not in the store.
  std::map<std::string, Snapshot> snapshots;
  /// The snapshots that a tag may stand for; empty text: none.
  std::map<std::string, std::set<std::string>> tags;

  static constexpr const char* kMarkLabel = "mark";

  /// A snapshot's name and tags have gone.
  void forget(const std::string& name);
};

/// The names in a store.
struct StoreNames {
  std::map<std::string, Manifest> snapshots;
  std::map<std::string, std::string> tags;
};
Result<StoreNames> names_in(PageClient& client);

/// Compares a ledger with the store and takes out of `found` what it knows; a difference is a test
/// failure.
void settle(Ledger& ledger, StoreNames& found);

}  // namespace thaw::test
