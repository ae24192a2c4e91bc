#pragma once

#include <vector>

#include "base/descriptor_store.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "faulthandler/inheritance.h"

namespace thaw {

/// While a supervisor becomes another program, its descriptors hang on a program that has never
/// served. If that one ended, all guests would read zeros. So a copy of the program before holds
/// the same descriptors until a handler serves. If none does within limits::kGuard, or the new
/// supervisor ends, the copy kills it and goes on as the supervisor itself.

/// Starts the guard with copies of what is passed; if it goes on, it does by these settings, once
/// this process and its handler, which was paused at `paused`, are dead. Returns our end of the
/// connection to it, which the new program inherits.
Result<UniqueFd> start_guard(std::vector<NamedDescriptor>& passed, const UniqueFd& settings,
                             const SessionKeep::Upgrades& upgrades, const UniqueFd& handler,
                             Clock::time_point paused);
/// A handler serves: the guard ends.
void dismiss_guard(const UniqueFd& guard);

/// What the guard does: returns when it was dismissed, becomes the supervisor otherwise.
Result<int> guard_upgrade();
/// The argument by which a program is told to be the guard.
inline constexpr const char* kGuardArgument = "--guard";

}  // namespace thaw
