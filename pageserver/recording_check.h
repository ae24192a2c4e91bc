#pragma once

#include <cstdint>

#include "base/error.h"
#include "format/manifest.h"
#include "format/recording.h"
#include "pageserver/job.h"
#include "pageserver/store.h"

namespace thaw {

/// A check of recordings: each is read, decoded, and compared with its snapshot. One that is
/// damaged or missing is named and deleted; the working set made of it stays until the next
/// recording.
class RecordingCheck {
 public:
  RecordingCheck(Store& store, NamespaceId in, JobControl& control)
      : store_(store), name_space_(in), control_(control) {}

  /// Checks the recordings of a snapshot, if it has any.
  Result<void> check(SnapshotId snapshot);

  std::uint64_t recordings() const { return recordings_; }  // that were read
  std::uint64_t damaged() const { return damaged_; }

 private:
  Result<ByteCount> verify(const Manifest& of, std::uint64_t number);
  Result<void> drop(const Manifest& of, std::uint64_t number, const Error& error);
  Result<bool> is_listed(SnapshotId snapshot, std::uint64_t number);
  WorkingSetStore& sets() const { return store_.working_sets(); }

  Store& store_;
  const NamespaceId name_space_;
  JobControl& control_;
  std::uint64_t recordings_ = 0;
  std::uint64_t damaged_ = 0;
};

}  // namespace thaw
