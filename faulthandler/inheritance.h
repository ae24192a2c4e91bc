#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/descriptor_store.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "faulthandler/session_keep.h"

namespace thaw {

/// What a supervisor passes on, beside the sessions, to the program that it becomes. Each stands
/// among the passed descriptors by a name of its own.
struct Inheritance {
  UniqueFd settings{};  // HandlerSettings to run by; not valid: there are none
  /// The end of a connection to the guard, which takes over unless it is told that a handler
  /// serves; not valid: there is no guard.
  UniqueFd guard{};
  /// The program that ran before and its settings: what is gone back to if no handler serves; not
  /// valid: nothing.
  UniqueFd program{};
  UniqueFd previous{};
  SessionKeep::Upgrades upgrades{};
  std::optional<Clock::time_point> unserved_since{};  // that a handler was paused to be replaced
  bool of_upgrade = false;  // from a program that became this one, not from a service manager
};

/// What the service manager knows the settings by, too.
inline constexpr const char* kSettingsName = "settings";

/// Takes the one of this name out of what was passed; not valid: there is none.
UniqueFd take_passed(std::vector<NamedDescriptor>& passed, const std::string& name);
/// Takes it out of what was passed.
Inheritance take_inheritance(std::vector<NamedDescriptor>& passed);
/// Adds it to what is passed. kNoDescriptors, kNoMemory.
Result<void> add_inheritance(std::vector<NamedDescriptor>& passed, Inheritance inheritance);

}  // namespace thaw
