#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json_fwd.hpp>

#include "tests/support/loop_kind.h"
#include "tests/support/programs.h"
#include "tests/support/test_support.h"

namespace thaw::test {

using Json = nlohmann::json;

/// A page server with a snapshot, a fault handler, and VMM processes.
class RestoreTest : public testing::TestWithParam<LoopKind> {
 protected:
  static constexpr std::size_t kPages = 4096;

  RestoreTest();

  std::string path(const std::string& name) const { return directory_.path(name); }

  Outcome push(const std::string& name, const std::string& image = "image");
  /// Kills the page server and starts another at the same address, with the store path(other)
  /// instead, whose own goes to path(aside). One that is not there is made, empty.
  void replace_store(const std::string& other, const std::string& aside);
  void start_handler() { start_handler(server_.address()); }
  void start_handler(const std::string& server, const std::vector<std::string>& more = {});
  /// Runs `thaw` with these arguments against the handler.
  Outcome control(std::vector<std::string> arguments);
  /// Prepares a session on path(socket) and returns its number.
  std::uint64_t prepare(std::vector<std::string> more = {}, const std::string& socket = "vm",
                        const std::string& snapshot = "snapshot");
  /// In memory of its own, unless the mode begins with "shared-".
  Program start_vmm(const std::string& mode, const std::string& image = "image",
                    const std::string& socket = "vm");
  /// One that has read half of its memory, and waits to be told to go on.
  Program start_half();
  Json session(std::uint64_t number);
  /// The session's report once `done(report)` holds.
  Json wait_for(std::uint64_t number, const std::function<bool(const Json& report)>& done);
  Json wait_for_state(std::uint64_t number, const std::string& state);

  ScratchDirectory directory_;
  Bytes image_;
  Bytes state_;
  PageServer server_;
  std::unique_ptr<Program> handler_;
};

}  // namespace thaw::test
