#include "pageserver/recording_check.h"

#include <algorithm>

namespace thaw {

Result<void> RecordingCheck::check(SnapshotId snapshot) {
  const auto sealed = TRY(if_found(store_.manifest(name_space_, snapshot)));
  if (!sealed) return {};
  const auto manifest = decode_manifest(*sealed);
  // What is wrong with the snapshot itself is said where that is checked.
  if (!manifest) return {};
  const WorkingSetState state = TRY(sets().state(name_space_, snapshot));
  for (const message::RecordingSummary& summary : state.recordings) {
    const auto verified = verify(*manifest, summary.number);
    ++recordings_;
    if (!verified) {
      TRY(drop(*manifest, summary.number, verified.error()));
    } else {
      TRY(control_.pace(*verified));
    }
  }
  return {};
}

Result<ByteCount> RecordingCheck::verify(const Manifest& of, std::uint64_t number) {
  const Bytes sealed = TRY(sets().recording(name_space_, of.snapshot, number));
  TRY(check_recording(TRY(decode_recording(sealed)), of));
  return ByteCount{sealed.size()};
}

Result<void> RecordingCheck::drop(const Manifest& of, std::uint64_t number, const Error& error) {
  if (is_shortage(error)) return std::unexpected(error);
  // A newer one may have taken its place while it was read.
  if (!TRY(is_listed(of.snapshot, number))) return {};
  ++damaged_;
  control_.add_finding(
      fmt::format("recording {} of {}: {}", number, of.spec.name, error.message()));
  return control_.write([&]() -> Result<void> {
    if (!TRY(is_listed(of.snapshot, number))) return {};
    const auto again = verify(of, number);
    // What the disk does not give now it may give later.
    if (again || is_shortage(again.error()) || again.error().code() == ErrorCode::kIo) return {};
    return sets().drop_recording(name_space_, of.snapshot, number);
  });
}

Result<bool> RecordingCheck::is_listed(SnapshotId snapshot, std::uint64_t number) {
  const WorkingSetState state = TRY(sets().state(name_space_, snapshot));
  return std::ranges::find(state.recordings, number, &message::RecordingSummary::number) !=
         state.recordings.end();
}

}  // namespace thaw
