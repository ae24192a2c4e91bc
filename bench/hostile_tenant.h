#pragma once

#include <cstddef>
#include <vector>

#include "base/error.h"
#include "bench/report.h"

namespace thaw::bench {

/// Requests of each kind that are timed, alone and beside the flood.
struct HostileTenantPlan {
  std::size_t lists;
  std::size_t demands;
};

/// Measures what a tenant notices of another one that floods the page server with offers, usage
/// reports, listings and demands: the 99th percentile of a listing and of a demanded page, beside
/// the same alone. Each tenant has a certificate and a namespace of its own.
Result<std::vector<Figure>> run_hostile_tenant(const HostileTenantPlan& plan);

}  // namespace thaw::bench
