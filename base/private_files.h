#pragma once

#include <cstddef>
#include <string>

#include "base/error.h"

namespace thaw {

/// Directories that keep guest memory, and files that decide who may read it. Other users of the
/// host must not enter the first or write the second. Access for them is refused with kPermission
/// and the command that ends it; nothing is loosened or tightened silently.

/// Makes the directory, and those above it that are missing, with mode 0700. One that is there must
/// pass check_private_directory(); if it is empty and this process owns it, it gets mode 0700.
Result<void> make_private_directory(const std::string& path);
/// kPermission unless the directory belongs to this process's user and has no mode for others.
Result<void> check_private_directory(const std::string& path);

/// Makes the directory, and those above it that are missing, with mode 0755, whatever the umask:
/// other users' programs reach sockets in it, which have modes of their own.
Result<void> make_public_directory(const std::string& path);

/// The text of a file that this process takes orders from. kPermission when others may write it: it
/// belongs to another user than root and this process's, or its mode lets group or others write; or
/// when others may put another file in its place (find_trusted()). Of devices such as /dev/null the
/// way there alone counts, for they keep nothing. kInvalidArgument for a pipe or a directory: it
/// never waits for another program.
Result<std::string> read_trusted_file(const std::string& path, std::size_t most_bytes);
/// The same of a secret, which others must have no access to.
Result<std::string> read_secret_file(const std::string& path, std::size_t most_bytes);

}  // namespace thaw
