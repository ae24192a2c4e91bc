#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/socket.h"
#include "format/page_client.h"
#include "tests/support/drawn_image.h"
#include "tests/support/ledger.h"

namespace thaw::test {

/// What all clients do, over all their lives.
struct LoadCounts {
  std::atomic<std::uint64_t> operations = 0;  // that were tried
  std::atomic<std::uint64_t> pushes = 0;
  std::atomic<std::uint64_t> deletions = 0;
  std::atomic<std::uint64_t> pulls = 0;
  std::atomic<std::uint64_t> foreign_reads = 0;
  std::atomic<std::uint64_t> diffs = 0;
  std::atomic<std::uint64_t> pinned_reads = 0;
  std::atomic<std::uint64_t> collections = 0;
  std::atomic<std::uint64_t> tag_moves = 0;
  std::atomic<std::uint64_t> refusals = 0;  // by an error of the disk
};

/// The acknowledged snapshots of all clients, for those who read what others delete. Locks itself.
class NameBoard {
 public:
  void add(const std::string& name);
  void remove(const std::string& name);
  void clear();
  std::optional<std::string> any(std::mt19937_64& generator) const;

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> names_;
};

/// Reads a snapshot over `client`, its pages over `pages`, and compares each with the image that
/// its labels name; a difference is a test failure.
Result<void> check_content(PageClient& client, PageClient& pages, const Manifest& manifest);

/// A client of a page server that may die at any time: pushes, deletes and reads snapshots of its
/// own, and reads those of others. One thread at a time; the ledger is for nobody else meanwhile.
class LoadClient {
 public:
  LoadClient(unsigned number, std::uint64_t seed, NameBoard& board, LoadCounts& counts);

  /// Works until `stop`, or until the server has gone. Any error that is not in `expected` is a
  /// test failure.
  void run(const TcpAddress& server, const std::set<ErrorCode>& expected,
           const std::atomic<bool>& stop);

  Ledger& ledger() { return ledger_; }

 private:
  struct Connections {
    TcpAddress server;
    PageClient control;
    PageClient demand;
  };
  /// A thing to do. A new one is an entry more in draw_operation().
  struct Operation {
    const char* name;
    unsigned weight;
    Result<void> (LoadClient::*run)(Connections& to);
  };

  Result<void> push(Connections& to);
  Result<void> push_diff(Connections& to);
  Result<void> remove(Connections& to);
  Result<void> remove_in_use(Connections& to);
  Result<void> pull(Connections& to);
  Result<void> read_foreign(Connections& to);
  Result<void> read_pinned(Connections& to);
  Result<void> move_tag(Connections& to);
  Result<void> label(Connections& to);
  Result<void> record(Connections& to);
  Result<void> collect(Connections& to);
  Result<void> retain(Connections& to);
  Result<void> store_image(Connections& to, const DrawnImage& image, const DrawnImage* parent);
  Result<void> work(const TcpAddress& server, const std::set<ErrorCode>& expected,
                    const std::atomic<bool>& stop);
  Operation draw_operation();
  /// The name of an acknowledged snapshot of ours.
  std::optional<std::string> draw_own();
  std::string draw_free_name();

  const unsigned number_;
  std::mt19937_64 generator_;
  NameBoard& board_;
  LoadCounts& counts_;
  Ledger ledger_;
};

}  // namespace thaw::test
