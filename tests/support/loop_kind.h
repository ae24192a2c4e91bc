#pragma once

#include <ostream>
#include <string>

#include <gtest/gtest.h>

namespace thaw::test {

/// The fault handler's event loops, for suites that run on both.
enum class LoopKind { kUring, kEpoll, kOlderUring };

/// How gtest prints one.
inline void PrintTo(LoopKind kind, std::ostream* to) {
  *to << (kind == LoopKind::kUring   ? "io_uring"
          : kind == LoopKind::kEpoll ? "epoll"
                                     : "older_io_uring");
}
inline auto both_loops() { return testing::Values(LoopKind::kUring, LoopKind::kEpoll); }
inline std::string loop_name(const testing::TestParamInfo<LoopKind>& loop) {
  return testing::PrintToString(loop.param);
}

}  // namespace thaw::test
