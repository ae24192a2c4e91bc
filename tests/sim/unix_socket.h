#pragma once

#include <deque>
#include <memory>
#include <vector>

#include <sys/types.h>

#include "tests/sim/machine.h"

namespace thaw::sim {

/// The handler's end of a UNIX connection, and what the VMM sends on it.
class UnixSocket final : public File {
 public:
  struct Message {
    Bytes bytes;
    std::vector<std::shared_ptr<File>> files;
  };
  UnixSocket(Machine& machine, std::shared_ptr<File> process)
      : machine_(machine), process_(std::move(process)) {}
  UnixSocket(const UnixSocket&) = delete;
  UnixSocket& operator=(const UnixSocket&) = delete;

  short ready() const override;
  /// What was sent next, at most so many bytes; nothing: nothing yet. No bytes: it has ended.
  std::optional<Message> take(std::size_t most);
  /// How much of what was sent next was copied to `to`, and is still there; nothing: nothing yet.
  std::optional<std::size_t> peek(MutableByteSpan to) const;
  const std::shared_ptr<File>& process() const { return process_; }

  /// The handler gives a file.
  void greet(std::shared_ptr<File> file) {
    if (on_greeting_) on_greeting_(std::move(file));
  }

  // The VMM's end.
  void set_on_greeting(std::function<void(std::shared_ptr<File>)> on_greeting) {
    on_greeting_ = std::move(on_greeting);
  }
  void send(Message message);
  void close();

 private:
  Machine& machine_;
  const std::shared_ptr<File> process_;  // of the VMM
  std::deque<Message> messages_;
  bool closed_ = false;
  std::function<void(std::shared_ptr<File>)> on_greeting_;
};

/// A socket that listens.
class UnixListener final : public File {
 public:
  explicit UnixListener(Machine& machine) : machine_(machine) {}
  short ready() const override;
  std::shared_ptr<UnixSocket> accept();
  void connect(std::shared_ptr<UnixSocket> socket);

 private:
  Machine& machine_;
  std::deque<std::shared_ptr<UnixSocket>> waiting_;
};

/// A process as its pidfd shows it.
class Process final : public File {
 public:
  Process(Machine& machine, std::function<void()> kill)
      : machine_(machine), kill_(std::move(kill)) {}
  static constexpr pid_t kPid = 4711;

  short ready() const override;
  void kill() const { kill_(); }
  void exit();

 private:
  Machine& machine_;
  const std::function<void()> kill_;
  bool exited_ = false;
};

}  // namespace thaw::sim
