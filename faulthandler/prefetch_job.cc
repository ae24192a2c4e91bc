#include "faulthandler/prefetch_job.h"

namespace thaw {

void PrefetchJob::work(WorkerPool::Tools& tools) {
  if (!ready) decoded = decode(tools);
  if (!decoded) return;
  for (Run& run : runs) {
    no_room = !has_room();
    if (no_room || !gate->try_copy(decided, [&] { put_in(run); })) return;
    note_spent(run);
    no_room = run.outcome == FillOutcome::kNoMemory;
    if (no_room) return;
  }
}

bool PrefetchJob::has_room() {
  const bool free = content_ == Content::kZeros && !room->zeros_cost();
  return (free && !room->closed()) || room->open_or_look();
}

void PrefetchJob::note_spent(const Run& run) {
  if (content_ == Content::kZeros) return room->spend_zeros(bytes_of(run.filled));
  room->spend(bytes_of(run.filled));
}

Result<void> PrefetchJob::decode(WorkerPool::Tools& tools) {
  const MutableByteSpan to(plain.get(), pages.size() * kPageBytes);
  return content_ == Content::kPack ? tools.pages.open_pack(tools.packs, sealed, pages, hashes, to)
                                    : tools.pages.open_chunks(sealed, pages, hashes, to);
}

FillResult PrefetchJob::fill(const Run& run) {
  const HostAddress to = run.address + bytes_of(run.present);
  const ByteCount length = bytes_of(run.count - run.present);
  if (content_ == Content::kZeros) return zero_pages(*userfaultfd, to, length, Waiters::kLeave);
  const ByteSpan from(plain.get() + (run.place + run.present.value) * kPageBytes, length.value);
  return copy_pages(*userfaultfd, to, from, Waiters::kLeave, run.tracking);
}

void PrefetchJob::put_in(Run& run) {
  while (run.present < run.count) {
    const FillResult result = fill(run);
    run.present += pages_for(result.done);
    run.filled += pages_for(result.done);
    run.outcome = result.outcome;
    run.error_number = result.error_number;
    // Somebody else was quicker with this one.
    if (result.outcome == FillOutcome::kExists) run.present += PageCount{1};
    if (result.outcome != FillOutcome::kFilled && result.outcome != FillOutcome::kExists) return;
  }
  run.outcome = FillOutcome::kFilled;
}

}  // namespace thaw
