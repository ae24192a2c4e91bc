#pragma once

#include <string>

namespace thaw::test {

/// What comes back for these bytes until the other side closes, or what kept them from being
/// answered.
std::string exchange_http(const std::string& address, const std::string& request);

/// The same for a GET of this path.
std::string http_get(const std::string& address, const std::string& path);

/// An address of this host whose port nobody has.
std::string free_address();

}  // namespace thaw::test
