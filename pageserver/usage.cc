#include "pageserver/usage.h"

#include "pageserver/chunk_set.h"
#include "pageserver/snapshots.h"

namespace thaw {

namespace {

void add_pages(const PageMap& map, message::Usage& to) {
  ++to.snapshots;
  to.logical_bytes += bytes_of(map.size()).value;
  for (PageMap::Cursor cursor(map); !cursor.at_end(); cursor.next()) {
    const PageMap::Run run = cursor.run();
    if (run.zero()) to.zero_bytes += bytes_of(run.length).value;
  }
}

}  // namespace

Result<message::Usage> usage(Store& store, NamespaceId in, std::optional<SnapshotId> of,
                             JobControl& control) {
  message::Usage usage;
  ChunkSet counted;
  ChunkSet others;
  for (const SnapshotId snapshot : TRY(store.snapshots(in, {}))) {
    const auto map = TRY(if_found(read_page_map(store, in, snapshot)));
    if (!map) continue;  // removed since
    if (of && snapshot != *of) {
      others.insert(*map);
      continue;
    }
    add_pages(*map, usage);
    counted.insert(*map);
  }
  if (of && usage.snapshots == 0) return fail(ErrorCode::kNotFound, "snapshot {}", of->value);
  usage.unique_bytes = bytes_of({counted.size()}).value;
  usage.duplicate_bytes = usage.logical_bytes - usage.zero_bytes - usage.unique_bytes;
  usage.stored_bytes = TRY(stored_bytes(store, counted, control)).value;
  usage.exclusive_bytes = usage.stored_bytes;
  if (others.empty()) return usage;
  counted.erase(others);
  usage.exclusive_bytes = TRY(stored_bytes(store, counted, control)).value;
  return usage;
}

}  // namespace thaw
