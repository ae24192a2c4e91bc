#pragma once

#include "base/http.h"
#include "format/control.h"

namespace thaw {

/// What a handler's report (or why there is none) says, for Prometheus. Counters begin anew with
/// each process that serves.
HttpPage metrics_page(const ControlReply& report);

}  // namespace thaw
