#include "faulthandler/errand_service.h"

#include <array>
#include <cerrno>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "base/event_fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/socket.h"
#include "base/thread.h"
#include "faulthandler/errand_messages.h"
#include "faulthandler/limits.h"

namespace thaw {

/// Descriptors of its own: those of the supervisor are moved when it becomes another program.
struct ErrandService::Vmm {
  pid_t pid;
  UniqueFd pidfd;
  UniqueFd image;
  UniqueFd traces;
  std::string trace;

  ErrandSubject subject() const {
    const auto if_valid = [](const UniqueFd& fd) { return fd.valid() ? &fd : nullptr; };
    return {pid, if_valid(pidfd), if_valid(image), if_valid(traces), trace};
  }
};

struct ErrandService::Connection {
  UniqueFd socket;
  std::mutex receiving{};  // of its threads one waits for the next request
};

struct ErrandService::State {
  std::mutex mutex;
  std::map<std::uint64_t, std::shared_ptr<const Vmm>> vmms;  // guarded by mutex
  std::set<std::uint64_t> busy;                              // guarded by mutex

  /// A VMM that no other thread looks at now.
  Result<std::shared_ptr<const Vmm>> take(std::uint64_t session) {
    const std::lock_guard lock(mutex);
    const auto found = vmms.find(session);
    if (found == vmms.end()) return fail(ErrorCode::kNotFound, "session {} has no VMM", session);
    if (!busy.insert(session).second) {
      return fail(ErrorCode::kBusy, "session {} is being looked at", session);
    }
    return found->second;
  }
  void give_back(std::uint64_t session) {
    const std::lock_guard lock(mutex);
    busy.erase(session);
  }
};

namespace {

/// The next request. kUnavailable when the handler is gone.
Result<ErrandRequest> receive_errand(const UniqueFd& connection) {
  std::array<std::byte, limits::kMaxErrandBytes> bytes;
  while (true) {
    auto received = TRY(receive_with_descriptors(connection, bytes));
    if (!received) {
      wait_until_readable(connection, Deadline::after(limits::kErrandLook));
      continue;
    }
    if (received->bytes == 0) return fail(ErrorCode::kUnavailable, "the handler is gone");
    ErrandRequest request = TRY(decode_errand(ByteSpan(bytes).first(received->bytes)));
    const bool has_file = request.errand.kind == Errand::Kind::kTrace;
    if (received->descriptors.size() != (has_file ? 1u : 0u)) {
      return fail(ErrorCode::kProtocol, "an errand with {} descriptors",
                  received->descriptors.size());
    }
    if (has_file) request.errand.file = std::move(received->descriptors.front());
    return request;
  }
}

Result<void> send_answer(const UniqueFd& connection, std::uint64_t number,
                         const ErrandResult& result) {
  std::vector<int> descriptors;
  if (result.backing.file.valid()) descriptors.push_back(result.backing.file.get());
  return send_with_descriptors(connection, encode_answer(number, result), descriptors,
                               Deadline::after(limits::kErrandAnswer));
}

}  // namespace

ErrandService::ErrandService(std::function<void()> prepare_thread)
    : prepare_thread_(std::move(prepare_thread)), state_(std::make_shared<State>()) {}

ErrandService::~ErrandService() { disconnect(); }

void ErrandService::disconnect() {
  if (connection_ != nullptr) shut_down(connection_->socket);
  connection_.reset();
}

Result<UniqueFd> ErrandService::connect() {
  disconnect();
  MessagePair ends = TRY(create_message_pair());
  auto connection = std::make_shared<Connection>(std::move(ends.ours));
  for (unsigned i = 0; i < limits::kErrandThreads; ++i) {
    auto thread = start_thread([state = state_, connection, prepare = prepare_thread_] {
      prepare();
      serve(*state, *connection);
    });
    // With fewer it is slower.
    if (!thread && i == 0) return std::unexpected(thread.error());
    if (!thread) break;
    thread->detach();
  }
  connection_ = std::move(connection);
  return std::move(ends.theirs);
}

void ErrandService::serve(State& state, Connection& connection) {
  const UniqueFd& socket = connection.socket;
  while (true) {
    auto request = [&] {
      const std::lock_guard lock(connection.receiving);
      return receive_errand(socket);
    }();
    if (!request) {
      const bool gone = request.error().code() == ErrorCode::kUnavailable;
      if (!gone) log_error("the fault handler's errands: {}", request.error().message());
      return shut_down(socket);
    }
    const auto vmm = state.take(request->session);
    ErrandResult result;
    if (vmm) {
      result = do_errand(request->errand, (*vmm)->subject());
      state.give_back(request->session);
    } else {
      result.failure = vmm.error().message();
    }
    auto sent = send_answer(socket, request->number, result);
    if (!sent && sent.error().error_number() == EMSGSIZE) {
      sent =
          send_answer(socket, request->number, {.failure = "its answer is too large to be sent"});
    }
    if (!sent) {
      log_debug("an errand of session {}: {}", request->session, sent.error().message());
      return shut_down(socket);
    }
  }
}

void ErrandService::show(std::uint64_t session, const ErrandSubject& subject) {
  const auto copy = [](const UniqueFd* fd) -> Result<UniqueFd> {
    if (fd == nullptr) return UniqueFd();
    return duplicate(*fd);
  };
  const auto shown = [&]() -> Result<void> {
    auto vmm =
        std::make_shared<const Vmm>(subject.pid, TRY(copy(subject.pidfd)), TRY(copy(subject.image)),
                                    TRY(copy(subject.traces)), subject.trace);
    const std::lock_guard lock(state_->mutex);
    state_->vmms.insert_or_assign(session, std::move(vmm));
    return {};
  }();
  if (!shown) log_warning("session {}: not looked at: {}", session, shown.error().message());
}

void ErrandService::hide(std::uint64_t session) {
  std::shared_ptr<const Vmm> gone;  // closes nothing under the lock
  const std::lock_guard lock(state_->mutex);
  if (const auto found = state_->vmms.find(session); found != state_->vmms.end()) {
    gone = std::move(found->second);
    state_->vmms.erase(found);
  }
}

}  // namespace thaw
