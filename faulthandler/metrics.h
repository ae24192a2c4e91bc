#pragma once

#include "base/http.h"
#include "format/control.h"

namespace thaw {

/// What a handler's report (or why there is none) says, for Prometheus. Counters begin anew with
/// each process that serves.
HttpPage metrics_page(const ControlReply& report);

/// 503 while the handler does not answer. What page servers do is no fault of it, and in the
/// metrics.
HttpPage health_page(const ControlReply& report);

}  // namespace thaw
