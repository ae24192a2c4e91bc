#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/process.h"
#include "base/unique_fd.h"
#include "faulthandler/limits.h"
#include "faulthandler/loop.h"

namespace thaw {

/// A program that may follow the running one is started beside it and has to show that it could
/// serve: it reads the configuration as it is now, gives back the settings that it would run by,
/// and exits with code 0. On the loop's thread.
class SuccessorProof {
 public:
  /// The argument by which a program is asked for the proof. It finds the settings in force on its
  /// ChildProcess::kChildDescriptor (take_over()), and hands its own over there.
  static constexpr const char* kArgument = "--prove";

  /// `command` without that argument. `on_end` is called once, not in here, with the settings, or
  /// with why that program cannot follow: its own words, if it said some.
  static Result<std::unique_ptr<SuccessorProof>> start(
      Loop& loop, std::vector<std::string> command, const UniqueFd& settings,
      std::function<void(Result<UniqueFd>)> on_end);
  SuccessorProof(const SuccessorProof&) = delete;
  SuccessorProof& operator=(const SuccessorProof&) = delete;

  /// Nothing is told any more.
  void close();
  /// Whether it may be destroyed.
  bool finished() const {
    return !exiting_.active() && !reading_.active() && !answering_.active() && !patience_.active();
  }

 private:
  SuccessorProof(Loop& loop, ChildProcess child, UniqueFd connection, UniqueFd words,
                 std::function<void(Result<UniqueFd>)> on_end);
  void on_words(int result);
  void on_answer(int result);
  void on_exit(int result);
  void end(Result<UniqueFd> settings);
  /// What it has said, without the end of the last line.
  std::string words() const {
    const std::size_t end = said_.find_last_not_of('\n');
    return end == std::string::npos ? "" : ": " + said_.substr(0, end + 1);
  }

  Loop& loop_;
  const ChildProcess child_;
  const UniqueFd connection_;
  const UniqueFd words_;  // its stdout and stderr
  const std::function<void(Result<UniqueFd>)> on_end_;
  std::string said_;
  UniqueFd proven_;  // its settings, once it has handed them over
  bool open_ = true;

  Operation exiting_{[this](int result) { on_exit(result); }};
  Operation reading_{[this](int result) { on_words(result); }};
  Operation answering_{[this](int result) { on_answer(result); }};
  Operation patience_{[this](int result) {
    if (result != -ETIME || !open_) return;
    end(fail(ErrorCode::kTimeout, "it did not say within {} s that it could serve{}",
             limits::kProof.count(), words()));
  }};
};

}  // namespace thaw
