#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace thaw {

/// Descriptors that outlive a program, as systemd keeps and passes them (sd_listen_fds(3),
/// sd_notify(3), FileDescriptorStoreMax= in systemd.service(5)).

/// The number of the first one that is passed (SD_LISTEN_FDS_START).
inline constexpr int kFirstPassed = 3;

struct NamedDescriptor {
  std::string name;  // of letters, digits, '-' and '.'
  UniqueFd descriptor;
};

/// Those that this process was started with, close-on-exec from now on. Call once, before anything
/// else is opened. kMalformed when the environment speaks of others than there are.
Result<std::vector<NamedDescriptor>> take_passed_descriptors();

/// Turns this process into another program that is passed these, by the same rules: returns only
/// when that fails, and then they stand where that program would have found them: become() passes
/// them to another one. REQUIRES: a command of at least one word.
Result<void> become_with(const std::string& file, const std::vector<std::string>& command,
                         std::vector<NamedDescriptor> descriptors);
/// The same of the file that the command's first word names.
Result<void> become_with(const std::vector<std::string>& command,
                         std::vector<NamedDescriptor> descriptors);

/// Starts the program that runs, with this command and all of the descriptors. It is nobody's child
/// and outlives this process. Threads of this process are not copied. REQUIRES: as become_with().
Result<void> start_copy_with(const std::vector<std::string>& command,
                             std::vector<NamedDescriptor>& descriptors);

}  // namespace thaw
