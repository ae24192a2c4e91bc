#include "pageserver/pack_check.h"

#include "pageserver/snapshots.h"

namespace thaw {

Result<void> PackCheck::check(SnapshotId snapshot, const std::set<PackId>* only) {
  auto set = TRY(read(snapshot));
  if (!set) return {};
  const auto map = if_found(read_page_map(store_, name_space_, snapshot));
  // What is wrong with the snapshot itself is said where that is checked.
  if (!map && map.error().code() == ErrorCode::kCorrupt) return {};
  if (!map) return std::unexpected(map.error());
  if (!*map) return {};
  if (const auto decoded = decode(*set, **map); !decoded) {
    return withdraw(*set, std::nullopt, decoded.error());
  }
  for (std::uint32_t i = 0; i < set->packs.size(); ++i) {
    if (only != nullptr && !only->contains({snapshot, set->set.generation, i})) continue;
    const auto verified = verify(*set, i);
    ++packs_;
    // Of a set that goes the other packs need not be read.
    if (!verified) return withdraw(*set, i, verified.error());
    TRY(control_.pace(*verified));
  }
  return {};
}

Result<std::optional<PackCheck::ReadSet>> PackCheck::read(SnapshotId snapshot) {
  auto sealed = sets().working_set(name_space_, snapshot);
  if (!sealed && sealed.error().code() == ErrorCode::kNotFound) return std::nullopt;
  const auto manifest = TRY(if_found(store_.manifest(name_space_, snapshot)));
  if (!manifest) return std::nullopt;
  auto decoded = decode_manifest(*manifest);
  if (!decoded) return std::nullopt;
  return ReadSet{
      .manifest = *std::move(decoded), .sealed = std::move(sealed), .set = {}, .packs = {}};
}

Result<void> PackCheck::decode(ReadSet& set, const PageMap& map) {
  const Bytes sealed = TRY(set.sealed);
  set.set = TRY(decode_working_set(sealed));
  set.packs = TRY(packed_pages(set.set, map, set.manifest.spec.memory_pages()));
  return {};
}

Result<ByteCount> PackCheck::verify(const ReadSet& set, std::uint32_t number) {
  const std::vector<PackPage>& pages = set.packs[number];
  const PackId id{set.manifest.snapshot, set.set.generation, number};
  const PackRead read = TRY(sets().pack(name_space_, id));
  plain_.resize(bytes_of({pages.size()}).value);
  TRY(codec_.decode(read.pack, pages, plain_));
  return ByteCount{read.pack.size()};
}

Result<void> PackCheck::withdraw(const ReadSet& set, std::optional<std::uint32_t> pack,
                                 const Error& error) {
  if (is_shortage(error)) return std::unexpected(error);
  // While it was read it may have been replaced, and on the writer's strand made again.
  if (!is_there_still(set)) return {};
  ++damaged_;
  control_.add_finding(fmt::format("the working set of {}{}: {}", set.manifest.spec.name,
                                   pack ? fmt::format(", pack {}", *pack) : "", error.message()));
  return control_.write([&]() -> Result<void> {
    if (!is_there_still(set) || (pack && verify(set, *pack))) return {};
    return sets().withdraw(name_space_, set.manifest.snapshot);
  });
}

bool PackCheck::is_there_still(const ReadSet& set) const {
  const auto now = sets().working_set(name_space_, set.manifest.snapshot);
  if (now && set.sealed) return *now == *set.sealed;
  return !now && !set.sealed && now.error().code() == set.sealed.error().code();
}

}  // namespace thaw
