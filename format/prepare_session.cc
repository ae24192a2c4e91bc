#include "format/prepare_session.h"

#include <optional>

#include "base/new_listener.h"
#include "base/partial_file.h"
#include "base/place.h"
#include "base/printable.h"
#include "format/control_channel.h"
#include "format/session_objects.h"

namespace thaw {

namespace {

/// JSON carries no other text, so the handler would be asked for another file.
Result<void> check_texts(const control::Prepare& request) {
  for (const std::string* const text : {&request.snapshot, &request.socket, &request.state_out,
                                        &request.name_space, &request.trace_out}) {
    if (is_utf8(*text)) continue;
    return fail(ErrorCode::kInvalidArgument,
                "\"{}\" is not UTF-8, and fault handlers take no other", printable(*text));
  }
  return {};
}

Result<std::optional<FileOwner>> owner_of(const control::Prepare& request) {
  if (request.owner_uid.has_value() != request.owner_gid.has_value()) {
    return fail(ErrorCode::kInvalidArgument, "an owner has both a user and a group id");
  }
  if (!request.owner_uid) return std::optional<FileOwner>();
  return std::optional(FileOwner{*request.owner_uid, *request.owner_gid});
}

/// Where no VMM's user can have the fault handler wait.
Result<Place> find_local_place(const std::string& path) {
  Place place = TRY(find_place(path));
  TRY(check_never_waits(place.directory, path));
  return place;
}

Result<std::optional<Place>> place_of(const std::string& path) {
  if (path.empty()) return std::optional<Place>();
  return std::optional(TRY(find_local_place(path)));
}

Result<void> check_apart(const Place& socket, const std::optional<Place>& state,
                         const std::optional<Place>& trace) {
  const bool same = (state && same_place(*state, socket)) ||
                    (trace && same_place(*trace, socket)) ||
                    (state && trace && same_place(*state, *trace));
  if (!same) return {};
  return fail(ErrorCode::kInvalidArgument,
              "the socket, the state file and the trace need paths of their own");
}

Result<void> publish(NewListener& socket, std::optional<PartialFile>& state) {
  if (state) TRY(state->publish());
  return socket.publish();
}

}  // namespace

Result<control::Prepared> prepare_session(const std::string& control_socket,
                                          const control::Prepare& request) {
  TRY(check_texts(request));
  const auto owner = TRY(owner_of(request));
  Place socket_place = TRY(find_local_place(request.socket));
  auto state_place = TRY(place_of(request.state_out));
  auto trace_place = TRY(place_of(request.trace_out));
  TRY(check_apart(socket_place, state_place, trace_place));
  // It appears when the guest has run for a while: what is wrong with its place is said now.
  if (trace_place) {
    TRY(PartialFile::create_private(request.trace_out,
                                    {TRY(duplicate(trace_place->directory)), trace_place->name}));
  }
  std::optional<PartialFile> state;
  if (state_place) {
    state.emplace(TRY(PartialFile::create_private(request.state_out, *std::move(state_place))));
    if (owner) TRY(state->give_to(*owner));
  }
  NewListener socket = TRY(NewListener::create(request.socket, std::move(socket_place), owner));
  SessionObjects objects{.listener = TRY(duplicate(socket.listener())),
                         .socket_directory = TRY(duplicate(socket.directory())),
                         .socket_file = TRY(duplicate(socket.file())),
                         .state = state ? TRY(duplicate(state->fd())) : UniqueFd(),
                         .trace_directory = {}};
  if (trace_place) objects.trace_directory = std::move(trace_place->directory);
  const ControlReply reply = TRY(ask_fault_handler(control_socket, request, objects.numbers()));
  const auto* const prepared = std::get_if<control::Prepared>(&reply);
  if (prepared == nullptr) return fail(ErrorCode::kProtocol, "another reply");
  if (const auto published = publish(socket, state); !published) {
    static_cast<void>(ask_fault_handler(
        control_socket, control::Stop{prepared->session, control::StopMode::kRefuseIfAlive}));
    return std::unexpected(published.error());
  }
  return *prepared;
}

}  // namespace thaw
