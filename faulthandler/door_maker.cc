#include "faulthandler/door_maker.h"

#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "base/socket.h"
#include "faulthandler/inheritance.h"

namespace thaw {

namespace {

constexpr const char* kOrdersName = "orders";

}  // namespace

Result<void> DoorMaker::start(const UniqueFd& settings) {
  maker_.reset();
  if (command_.empty()) return fail(ErrorCode::kUnsupported, "VMMs are not let in here");
  MessagePair ends = TRY(create_message_pair());
  std::vector<NamedDescriptor> passed;
  passed.push_back({kOrdersName, std::move(ends.theirs)});
  passed.push_back({kSettingsName, TRY(duplicate(settings))});
  TRY(start_copy_with(command_, passed));
  maker_ = std::move(ends.ours);
  return {};
}

Result<UniqueFd> DoorMaker::open(KeepMessage order, const UniqueFd& settings) {
  MessagePair ends = TRY(create_message_pair());
  order.descriptors[KeptRole::kConnection] = std::move(ends.theirs);
  TRY(send(order, settings));
  return std::move(ends.ours);
}

std::optional<KeptSession> DoorMaker::close(KeptSession kept, const UniqueFd& settings) {
  auto ends = create_message_pair();
  if (!ends) return kept;
  KeepMessage order{.kind = KeepMessage::Kind::kCloseAll};
  order.descriptors = kept.share();
  order.descriptors[KeptRole::kSignal] = std::move(ends->theirs);
  if (!send(order, settings)) return kept;
  order = {};
  kept = {};
  return std::nullopt;  // and what is left of the pair says that this end is through
}

Result<void> DoorMaker::send(const KeepMessage& message, const UniqueFd& settings) {
  if (maker_.valid()) {
    const auto sent = send_message(maker_, message);
    if (sent || sent.error().code() == ErrorCode::kTimeout) return sent;
    log_error("what makes doors for VMMs is gone, and is started anew");
  }
  TRY(start(settings));
  return send_message(maker_, message);
}

Result<DoorOrders> take_door_orders(std::vector<NamedDescriptor> passed) {
  DoorOrders orders{take_passed(passed, kOrdersName), take_passed(passed, kSettingsName)};
  if (!orders.connection.valid() || !orders.settings.valid()) {
    return fail(ErrorCode::kInvalidArgument, "there is no one to open doors for");
  }
  return orders;
}

}  // namespace thaw
