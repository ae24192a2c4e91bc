#include "faulthandler/sent_errands.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include <poll.h>

#include "base/log.h"
#include "base/socket.h"
#include "faulthandler/limits.h"

namespace thaw {

namespace {

constexpr const char* kLate = "the supervisor has not answered in time";

}  // namespace

SentErrands::SentErrands(Loop& loop, UniqueFd supervisor)
    : loop_(loop), socket_(std::move(supervisor)), buffer_(limits::kMaxAnswerBytes) {
  loop_.poll(socket_, POLLIN, receiving_);
}

void SentErrands::begin(ErrandTask& task, std::uint64_t session, Errand errand,
                        const ErrandSubject&) {
  const char* refusal = nullptr;
  // Each thread of the supervisor may be held up by one VMM.
  if (stuck() >= limits::kErrandThreads) refusal = "the supervisor is held up by other VMMs";
  if (entries_.size() >= limits::kMaxErrands) refusal = "too many errands wait";
  if (!closed_.empty()) refusal = closed_.c_str();
  if (refusal != nullptr) return task.finish({.failure = refusal});
  entries_.push_back({.request = {++last_, session, std::move(errand)},
                      .task = &task,
                      .due = Clock::now() + limits::kErrandPatience});
  send_waiting();
  await_next();
}

void SentErrands::forget(ErrandTask& task) {
  const auto found = std::ranges::find(entries_, &task, &Entry::task);
  if (found == entries_.end()) return;
  found->task = nullptr;
  if (!found->sent) entries_.erase(found);
}

std::size_t SentErrands::stuck() const {
  const auto now = Clock::now();
  return static_cast<std::size_t>(std::ranges::count_if(
      entries_, [&](const Entry& entry) { return entry.sent && entry.due <= now; }));
}

void SentErrands::send_waiting() {
  for (Entry& entry : entries_) {
    if (entry.sent || under_way_.contains(entry.request.session)) continue;
    const Bytes bytes = encode_errand(entry.request);
    std::vector<int> descriptors;
    if (entry.request.errand.file.valid()) {
      descriptors.push_back(entry.request.errand.file.get());
    }
    const auto sent =
        send_with_descriptors(socket_, bytes, descriptors, Deadline::after(Nanoseconds(0)));
    // It is tried again when an answer comes, and at the next time.
    if (!sent) return;
    entry.sent = true;
    under_way_.insert(entry.request.session);
    entry.request.errand.file.reset();
  }
}

void SentErrands::on_readable(int result) {
  if (result < 0 || !closed_.empty()) return;
  while (closed_.empty()) {
    const auto more = receive_one();
    if (!more) return close(more.error().message());
    if (!*more) break;
  }
  send_waiting();
  await_next();
  loop_.poll(socket_, POLLIN, receiving_);
}

Result<bool> SentErrands::receive_one() {
  auto received = TRY(receive_with_descriptors(socket_, buffer_));
  if (!received) return false;
  if (received->bytes == 0) return fail(ErrorCode::kUnavailable, "the supervisor is gone");
  TRY(take_answer(ByteSpan(buffer_).first(received->bytes), std::move(received->descriptors)));
  return true;
}

Result<void> SentErrands::take_answer(ByteSpan bytes, std::vector<UniqueFd> descriptors) {
  ErrandAnswer answer = TRY(decode_answer(bytes));
  const auto found = std::ranges::find_if(entries_, [&](const Entry& entry) {
    return entry.sent && entry.request.number == answer.number;
  });
  if (found == entries_.end()) return fail(ErrorCode::kProtocol, "an answer to no errand");
  const bool takes_file = found->request.errand.kind == Errand::Kind::kBackingFile;
  if (descriptors.size() > (takes_file ? 1u : 0u)) {
    return fail(ErrorCode::kProtocol, "an answer with descriptors");
  }
  if (!descriptors.empty()) answer.result.backing.file = std::move(descriptors.front());
  ErrandTask* const task = found->task;
  under_way_.erase(found->request.session);
  entries_.erase(found);
  if (task != nullptr) task->finish(std::move(answer.result));
  return {};
}

void SentErrands::on_timer() {
  const auto now = Clock::now();
  const auto is_late = [now](const Entry& entry) {
    return entry.due <= now && (!entry.sent || entry.task != nullptr);
  };
  // What is told of a failure may begin others and forget them.
  for (auto late = std::ranges::find_if(entries_, is_late); late != entries_.end();
       late = std::ranges::find_if(entries_, is_late)) {
    ErrandTask* const task = std::exchange(late->task, nullptr);
    log_warning("session {}: {}", late->request.session, kLate);
    if (!late->sent) entries_.erase(late);
    if (task != nullptr) task->finish({.failure = kLate});
  }
  send_waiting();
  await_next();
}

void SentErrands::await_next() {
  if (waiting_.active() || !closed_.empty()) return;
  const auto first = std::ranges::find_if(
      entries_, [](const Entry& entry) { return !entry.sent || entry.task != nullptr; });
  if (first == entries_.end()) return;
  loop_.wait(std::max<Nanoseconds>(first->due - Clock::now(), std::chrono::milliseconds(1)),
             waiting_);
}

void SentErrands::close(const std::string& why) {
  log_warning("VMMs are not looked at any more: {}", why);
  closed_ = why;
  shut_down(socket_);
  loop_.cancel(waiting_);
  while (!entries_.empty()) {
    ErrandTask* const task = entries_.front().task;
    entries_.pop_front();
    if (task != nullptr) task->finish({.failure = closed_});
  }
}

}  // namespace thaw
