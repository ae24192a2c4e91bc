#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "format/page_client.h"

namespace thaw::test {

/// Runs a job of the page server to its end; nothing when another is running. The code of a job
/// that fails.
Result<std::optional<message::JobReport>> run_job(PageClient& client, message::JobKind kind);
/// The same, but waits for its turn.
Result<message::JobReport> finish_job(PageClient& client, message::JobKind kind);
std::uint64_t counter_of(const message::JobReport& report, const std::string& name);

}  // namespace thaw::test
