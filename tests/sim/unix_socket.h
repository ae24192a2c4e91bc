#pragma once

#include <deque>
#include <memory>
#include <vector>

#include <sys/types.h>

#include "base/error.h"
#include "tests/sim/machine.h"

namespace thaw::sim {

/// Bytes, and files that go with the first of them.
struct Message {
  Bytes bytes;
  std::vector<std::shared_ptr<File>> files;
};

/// A socket on which descriptors are sent as well.
class MessageReceiver : public File {
 public:
  /// What was sent next, at most so many bytes; nothing: nothing yet. No bytes: it has ended.
  virtual Result<std::optional<Message>> take(std::size_t most) = 0;
  /// kTimeout when there is no room.
  virtual Result<void> send_message(Message message) = 0;
};

/// The handler's end of a UNIX connection, and what the VMM sends on it.
class UnixSocket final : public MessageReceiver {
 public:
  UnixSocket(Machine& machine, std::shared_ptr<File> process)
      : machine_(machine), process_(std::move(process)) {}
  UnixSocket(const UnixSocket&) = delete;
  UnixSocket& operator=(const UnixSocket&) = delete;
  ~UnixSocket() override;

  short ready() const override;
  Result<std::optional<Message>> take(std::size_t most) override;
  /// The handler gives a file.
  Result<void> send_message(Message message) override;
  /// How much of what was sent next was copied to `to`, and is still there; nothing: nothing yet.
  std::optional<std::size_t> peek(MutableByteSpan to) const;
  const std::shared_ptr<File>& process() const { return process_; }

  // The VMM's end.

  void set_on_greeting(std::function<void(std::shared_ptr<File>)> on_greeting) {
    on_greeting_ = std::move(on_greeting);
  }
  /// Who is told when nobody has the other end any more, and whether all was taken there.
  void set_on_end(std::function<void(bool all_taken)> on_end) { on_end_ = std::move(on_end); }
  using File::send;
  void send(Message message);
  void close();

 private:
  Machine& machine_;
  const std::shared_ptr<File> process_;  // of the VMM
  std::deque<Message> messages_;
  bool closed_ = false;
  std::function<void(std::shared_ptr<File>)> on_greeting_;
  std::function<void(bool)> on_end_;
};

/// One end of a connection between two processes on which messages keep their bounds, as Linux has
/// it (SOCK_SEQPACKET): what was sent before one end was closed is still received, but if that end
/// had something left to receive, the other one's next call fails first.
class MessageSocket final : public MessageReceiver {
 public:
  /// The first end has room for any number of messages, the second for a few.
  static std::pair<std::shared_ptr<MessageSocket>, std::shared_ptr<MessageSocket>> make_pair(
      Machine& machine);
  MessageSocket(Machine& machine, std::size_t room) : machine_(machine), room_(room) {}
  MessageSocket(const MessageSocket&) = delete;
  MessageSocket& operator=(const MessageSocket&) = delete;
  ~MessageSocket() override;

  short ready() const override;
  Result<std::optional<Message>> take(std::size_t most) override;
  Result<void> send_message(Message message) override;

 private:
  Result<void> take_reset();

  Machine& machine_;
  const std::size_t room_;
  std::weak_ptr<MessageSocket> other_;
  std::deque<Message> messages_;
  bool was_reset_ = false;  // which is told once
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
  /// `kill`: it is going to die; `die`: and now it has, if it was.
  Process(Machine& machine, std::function<void()> kill, std::function<void()> die)
      : machine_(machine), kill_(std::move(kill)), die_(std::move(die)) {}
  static constexpr pid_t kPid = 4711;
  static constexpr uid_t kUser = 4711;

  short ready() const override;
  void kill() const { kill_(); }
  /// Somebody waits for its death.
  void die() const { die_(); }
  void exit();

 private:
  Machine& machine_;
  const std::function<void()> kill_;
  const std::function<void()> die_;
  bool exited_ = false;
};

}  // namespace thaw::sim
