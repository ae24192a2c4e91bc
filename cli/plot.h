#pragma once

#include <string>
#include <string_view>

#include "base/types.h"
#include "format/recording.h"

namespace thaw {

/// A picture as SVG of where in guest memory the touches are and when, what was demanded and what
/// was prefetched in two colours. Its size is bounded whatever the recording: touches of one kind
/// that fall into the same dot are drawn as one. Characters of the title that are not printable
/// ASCII are shown as '?'. A pure function.
/// REQUIRES: pages below limits::kMaxImagePages, times that never decrease.
std::string plot_svg(const Recording& recording, PageCount memory, std::string_view title);

}  // namespace thaw
