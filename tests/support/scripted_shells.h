#pragma once

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>

#include "vmm-client/shell.h"

namespace thaw::test {

/// The script of a factory and its shells, and what they have done. Locks itself.
class ShellScript {
 public:
  /// The next so many creations, or restores, fail with kNoSpace, or kCorrupt.
  void fail_creations(std::size_t count);
  void fail_restores(std::size_t count);
  /// Creations wait from now on, until they are let go.
  void hold_creations();
  void let_creations_go();

  /// False when patience ends before so many creations have begun.
  bool wait_for_creations(std::size_t count);
  std::size_t created() const;
  /// How many shells exist, and how many did at most.
  std::size_t alive() const;
  std::size_t most_alive() const;
  /// Whether the factory is gone.
  bool factory_gone() const;

  /// What the factory and the shells do.
  Result<void> create();
  Result<void> restore();
  void destroy();
  void end_factory();

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t failing_creations_ = 0;  // guarded by mutex_, as all that follows
  std::size_t failing_restores_ = 0;
  bool held_ = false;
  std::size_t begun_ = 0;
  std::size_t created_ = 0;
  std::size_t alive_ = 0;
  std::size_t most_alive_ = 0;
  bool factory_gone_ = false;
};

/// Remembers which creation it came from and the state file of its restore.
class ScriptedShell final : public Shell {
 public:
  ScriptedShell(ShellScript& script, std::size_t number) : script_(script), number_(number) {}
  ~ScriptedShell() override { script_.destroy(); }

  Result<void> restore(const RestoreSource& source, Deadline deadline, PhaseTimer& phases) override;

  std::size_t number() const { return number_; }
  const std::string& restored_from() const { return restored_from_; }

 private:
  ShellScript& script_;
  const std::size_t number_;
  std::string restored_from_;
};

/// The script outlives it.
class ScriptedShellFactory final : public ShellFactory {
 public:
  explicit ScriptedShellFactory(ShellScript& script) : script_(script) {}
  ~ScriptedShellFactory() override { script_.end_factory(); }

  Result<std::unique_ptr<Shell>> create(PhaseTimer& phases) override;

 private:
  ShellScript& script_;
};

}  // namespace thaw::test
