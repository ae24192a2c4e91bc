#pragma once

#include <functional>
#include <map>

#include "pageserver/store.h"
#include "pageserver/sys/rocks_database.h"

namespace thaw {

/// The part of the store on RocksDB that keeps chunks, and the hashes that lead to them. Threads
/// and errors as Store says.
class RocksChunks final : public ChunkUpkeep {
 public:
  explicit RocksChunks(RocksDatabase& database) : database_(database) {}

  Result<std::vector<ChunkId>> find(NamespaceId in, std::span<const Sha256> hashes);
  Result<ChunkRead> read(std::span<const ChunkId> ids, std::size_t optional);
  /// Says whether the namespace may have so much; it is asked when chunks are more than before.
  using Admit =
      std::function<Result<void>(const NamespaceTotals& before, const NamespaceTotals& after)>;
  Result<std::vector<StoredChunk>> put(NamespaceId in, std::span<const NewChunk> chunks,
                                       const Admit& admit);
  /// kBusy with what the namespace still has.
  Result<void> check_empty(NamespaceId in);
  /// Adds to `batch` what deletes all else that is known of an empty namespace, but for the bound
  /// of its ids.
  static void remove(RocksDatabase::Batch& batch, NamespaceId in);
  Result<void> compact_hashes(NamespaceId in);

  Result<void> for_each_page(NamespaceId in, const VisitPage& visit) override;
  EachChunkRead read_each(std::span<const ChunkId> ids) override;
  Result<NamespaceTotals> count(NamespaceId in) override;
  Result<ChunkSet> condemned(NamespaceId in) override;
  Result<std::vector<KnownPage>> quarantined(NamespaceId in) override;
  Result<ChunkId> checked_up_to(NamespaceId in) override;

  Result<ChunkId> next_chunk(NamespaceId in) override;
  Result<void> condemn(NamespaceId in, const ChunkSet& chunks) override;
  Result<void> forget(NamespaceId in, std::span<const KnownPage> pages) override;
  Result<ByteCount> sweep(NamespaceId in, std::span<const ChunkId> ids) override;
  Result<void> quarantine(NamespaceId in, std::span<const KnownPage> pages) override;
  Result<void> make_known(NamespaceId in, std::span<const KnownPage> pages) override;
  Result<void> set_totals(NamespaceId in, const NamespaceTotals& totals) override;
  Result<void> set_checked_up_to(NamespaceId in, ChunkId id) override;

 private:
  /// Ids set aside for a namespace: [next, end).
  struct Reserved {
    std::uint64_t next = 0;
    std::uint64_t end = 0;
  };
  /// The chunk in quarantine that each of these pages belongs to, kNoChunk where there is none.
  Result<std::vector<ChunkId>> find_quarantined(NamespaceId in, std::span<const NewChunk> chunks);
  std::optional<std::uint64_t> size_of(ChunkId id);
  Result<Reserved*> reserve(NamespaceId in);
  Result<ChunkId> next_id(NamespaceId in);

  RocksDatabase& database_;
  std::map<NamespaceId, Reserved> reserved_;  // of the writing thread
};

}  // namespace thaw
