#pragma once

#include <string>

#include "base/error.h"

namespace thaw {

/// Log files of a process that VMs wait for (see base/log.h). A log file may be a FIFO or a device;
/// opening one waits for no reader.

/// Like write_log_in_background(), but a file that cannot be opened is no failure: lines go to
/// stderr, an error about the file first, and reopen_log() tries it again.
Result<void> write_log_where_possible(const std::string& file);

/// Whether that file could be a log. Creates it if it is missing, as the log itself would.
Result<void> check_log_file(const std::string& file);

}  // namespace thaw
