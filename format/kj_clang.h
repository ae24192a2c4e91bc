#pragma once

#include <kj/string.h>

// Included ahead of everything when clang compiles files that use Cap'n Proto. Its headers of
// version 0.9 count on C++20 to turn `text == string` around, which clang since version 16 does
// not do for a class that has an operator!= as well (P2468).
namespace kj {

inline bool operator==(const char* a, const StringPtr& b) { return b == StringPtr(a); }
inline bool operator!=(const char* a, const StringPtr& b) { return !(b == StringPtr(a)); }

}  // namespace kj
