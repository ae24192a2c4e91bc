#include "faulthandler/successor_proof.h"

#include <cerrno>
#include <utility>

#include <poll.h>

#include "base/log.h"
#include "base/socket.h"
#include "faulthandler/handler_settings.h"

namespace thaw {

Result<std::unique_ptr<SuccessorProof>> SuccessorProof::start(
    Loop& loop, std::vector<std::string> command, const UniqueFd& settings,
    std::function<void(Result<UniqueFd>)> on_end) {
  MessagePair ends = TRY(create_message_pair());
  Pipe words = TRY(create_pipe());
  TRY(hand_over(ends.ours, settings));
  command.emplace_back(kArgument);
  ChildProcess child = TRY(ChildProcess::start(
      {.command = command, .passed = &ends.theirs, .messages = &words.writing}));
  return std::unique_ptr<SuccessorProof>(new SuccessorProof(
      loop, std::move(child), std::move(ends.ours), std::move(words.reading), std::move(on_end)));
}

SuccessorProof::SuccessorProof(Loop& loop, ChildProcess child, UniqueFd connection, UniqueFd words,
                               std::function<void(Result<UniqueFd>)> on_end)
    : loop_(loop),
      child_(std::move(child)),
      connection_(std::move(connection)),
      words_(std::move(words)),
      on_end_(std::move(on_end)) {
  loop_.poll(child_.pidfd(), POLLIN, exiting_);
  loop_.poll(words_, POLLIN, reading_);
  loop_.poll(connection_, POLLIN, answering_);
  loop_.wait(limits::kProof, patience_);
}

void SuccessorProof::on_words(int result) {
  if (!open_ || result < 0) return;
  const std::string more = drain_pipe(words_, limits::kMaxProofText);
  said_ += more;
  // What it said last says most.
  if (said_.size() > limits::kMaxProofText) said_.erase(0, said_.size() - limits::kMaxProofText);
  if (!more.empty()) loop_.poll(words_, POLLIN, reading_);
}

void SuccessorProof::on_answer(int result) {
  if (!open_ || result < 0) return;
  auto settings = take_over(connection_, Deadline::after(Nanoseconds(0)));
  if (settings) {
    proven_ = *std::move(settings);  // and it ends
  } else {
    // Its end is closed, and its exit says more.
    log_debug("of the new program: {}", settings.error().message());
  }
}

void SuccessorProof::on_exit(int result) {
  if (!open_ || result < 0) return;
  const auto status = child_.status();
  if (!status) return loop_.poll(child_.pidfd(), POLLIN, exiting_);
  // Its answer may have come in the same turn.
  if (!proven_.valid()) on_answer(POLLIN);
  if (proven_.valid() && *status == ExitStatus{}) return end(std::move(proven_));
  said_ += drain_pipe(words_, limits::kMaxProofText);
  end(fail(ErrorCode::kUnavailable, "it {} before it could serve{}", status->text(), words()));
}

void SuccessorProof::end(Result<UniqueFd> settings) {
  close();
  on_end_(std::move(settings));
}

void SuccessorProof::close() {
  open_ = false;
  for (Operation* operation : {&exiting_, &reading_, &answering_, &patience_}) {
    loop_.cancel(*operation);
  }
}

}  // namespace thaw
