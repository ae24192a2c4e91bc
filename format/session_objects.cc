#include "format/session_objects.h"

#include <utility>

#include "base/new_listener.h"
#include "base/place.h"

namespace thaw {

Result<SessionObjects> SessionObjects::of(const control::Prepare& request,
                                          std::vector<UniqueFd> descriptors) {
  const std::size_t wanted =
      3 + (request.state_out.empty() ? 0u : 1u) + (request.trace_out.empty() ? 0u : 1u);
  if (descriptors.size() != wanted) {
    return fail(ErrorCode::kInvalidArgument, "{} descriptors came with a prepare that needs {}",
                descriptors.size(), wanted);
  }
  SessionObjects objects;
  auto next = descriptors.begin();
  objects.listener = std::move(*next++);
  objects.socket_directory = std::move(*next++);
  objects.socket_file = std::move(*next++);
  if (!request.state_out.empty()) objects.state = std::move(*next++);
  if (!request.trace_out.empty()) objects.trace_directory = std::move(*next++);
  const auto lacks = [](const UniqueFd& object, ObjectKind kind) {
    return object.valid() && !is_kind(object, kind);
  };
  if (!is_listener(objects.listener) || lacks(objects.socket_directory, ObjectKind::kDirectory) ||
      lacks(objects.socket_file, ObjectKind::kSocketFile) ||
      lacks(objects.state, ObjectKind::kRegularFile) ||
      lacks(objects.trace_directory, ObjectKind::kDirectory)) {
    return fail(ErrorCode::kInvalidArgument,
                "a prepare came with a descriptor of another kind than it needs");
  }
  return objects;
}

std::vector<int> SessionObjects::numbers() const {
  std::vector<int> all;
  for (const UniqueFd* each :
       {&listener, &socket_directory, &socket_file, &state, &trace_directory}) {
    if (each->valid()) all.push_back(each->get());
  }
  return all;
}

}  // namespace thaw
