#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "cli/server_list.h"
#include "format/manifest.h"
#include "format/page_client.h"
#include "format/recording.h"

namespace thaw {

/// Recordings as files.

/// These recordings of a snapshot, as a file has them.
Result<Bytes> fetch_recordings(PageClient& client, SnapshotId snapshot,
                               const std::vector<message::RecordingSummary>& recordings);

/// All recordings of a file. kMalformed when there are none.
Result<std::vector<Recording>> read_recordings(const std::string& path);

/// Gives a page server all recordings of a file, or none when one is not of the snapshot of this
/// name. Returns how many.
Result<std::size_t> import_recordings(ServerList& servers, const std::string& snapshot,
                                      const std::string& path);

/// Guest memory as the regions of a recording have it. What check_regions() says.
Result<PageCount> memory_of(const Recording& recording);

}  // namespace thaw
