#include "tests/support/scripted_shells.h"

#include <algorithm>

#include "base/check.h"
#include "tests/support/programs.h"

namespace thaw::test {

void ShellScript::fail_creations(std::size_t count) {
  const std::lock_guard lock(mutex_);
  failing_creations_ = count;
}

void ShellScript::fail_restores(std::size_t count) {
  const std::lock_guard lock(mutex_);
  failing_restores_ = count;
}

void ShellScript::hold_creations() {
  const std::lock_guard lock(mutex_);
  held_ = true;
}

void ShellScript::let_creations_go() {
  const std::lock_guard lock(mutex_);
  held_ = false;
  changed_.notify_all();
}

bool ShellScript::wait_for_creations(std::size_t count) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return begun_ >= count; });
}

std::size_t ShellScript::created() const {
  const std::lock_guard lock(mutex_);
  return created_;
}

std::size_t ShellScript::alive() const {
  const std::lock_guard lock(mutex_);
  return alive_;
}

std::size_t ShellScript::most_alive() const {
  const std::lock_guard lock(mutex_);
  return most_alive_;
}

bool ShellScript::factory_gone() const {
  const std::lock_guard lock(mutex_);
  return factory_gone_;
}

Result<void> ShellScript::create() {
  std::unique_lock lock(mutex_);
  CHECK(!factory_gone_);
  ++begun_;
  changed_.notify_all();
  CHECK(changed_.wait_for(lock, kPatience, [&] { return !held_; }));
  if (failing_creations_ > 0) {
    --failing_creations_;
    return fail(ErrorCode::kNoSpace, "creation {} fails", begun_);
  }
  ++created_;
  most_alive_ = std::max(most_alive_, ++alive_);
  return {};
}

Result<void> ShellScript::restore() {
  const std::lock_guard lock(mutex_);
  CHECK(!factory_gone_);
  if (failing_restores_ == 0) return {};
  --failing_restores_;
  return fail(ErrorCode::kCorrupt, "a restore fails");
}

void ShellScript::destroy() {
  const std::lock_guard lock(mutex_);
  CHECK(!factory_gone_);
  --alive_;
}

void ShellScript::end_factory() {
  const std::lock_guard lock(mutex_);
  factory_gone_ = true;
}

Result<void> ScriptedShell::restore(const RestoreSource& source, Deadline, PhaseTimer& phases) {
  CHECK(restored_from_.empty());
  restored_from_ = source.state_path;
  phases.begin("handover");
  TRY(script_.restore());
  phases.begin("state");
  return {};
}

Result<std::unique_ptr<Shell>> ScriptedShellFactory::create(PhaseTimer& phases) {
  phases.begin("memory");
  TRY(script_.create());
  phases.begin("vcpus");
  return std::make_unique<ScriptedShell>(script_, script_.created());
}

}  // namespace thaw::test
