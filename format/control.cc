#include "format/control.h"

#include <algorithm>
#include <array>
#include <initializer_list>
#include <limits>
#include <utility>

#include <nlohmann/json.hpp>

namespace thaw {

namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kMaxSigned = std::numeric_limits<std::int64_t>::max();

template <typename Enum>
struct Name {
  Enum value;
  std::string_view name;
};

/// The names of each choice, found by a value of its type.
constexpr std::array<Name<SessionState>, 5> names_of(SessionState) {
  return {{{SessionState::kPrepared, "prepared"},
           {SessionState::kServing, "serving"},
           {SessionState::kDetached, "detached"},
           {SessionState::kRefused, "refused"},
           {SessionState::kEnded, "ended"}}};
}
constexpr std::array<Name<UnservablePolicy>, 3> names_of(UnservablePolicy) {
  return {{{UnservablePolicy::kKill, "kill"},
           {UnservablePolicy::kWait, "wait"},
           {UnservablePolicy::kPoison, "poison"}}};
}
constexpr std::array<Name<ServerState>, 4> names_of(ServerState) {
  return {{{ServerState::kIdle, "idle"},
           {ServerState::kUp, "up"},
           {ServerState::kSlow, "slow"},
           {ServerState::kAway, "away"}}};
}
constexpr std::array<Name<RecordMode>, 3> names_of(RecordMode) {
  return {{{RecordMode::kWithoutSet, "without_set"},
           {RecordMode::kAlways, "always"},
           {RecordMode::kNever, "never"}}};
}
constexpr std::array<Name<RecordingState>, 5> names_of(RecordingState) {
  return {{{RecordingState::kNone, "none"},
           {RecordingState::kRunning, "running"},
           {RecordingState::kUploading, "uploading"},
           {RecordingState::kStored, "stored"},
           {RecordingState::kFailed, "failed"}}};
}
constexpr std::array<Name<PrefetchState>, 5> names_of(PrefetchState) {
  return {{{PrefetchState::kNone, "none"},
           {PrefetchState::kStreaming, "streaming"},
           {PrefetchState::kDone, "done"},
           {PrefetchState::kStopped, "stopped"},
           {PrefetchState::kShortOfMemory, "short_of_memory"}}};
}

template <typename T>
concept Named = requires(T value) { names_of(value); };

template <Named T>
std::string_view name_of(T value) {
  for (const auto& [known, name] : names_of(value)) {
    if (known == value) return name;
  }
  return "unknown";
}

/// An object of this type, const or not.
template <typename Object, typename T>
concept Is = std::is_same_v<std::remove_const_t<Object>, T>;

/// Describes the members of each struct once, for both directions: `visit` is called with the
/// member's name and a reference to it.

void members(Is<FaultCounters> auto& object, auto visit) {
  visit("total", object.total);
  visit("fetched", object.fetched);
  visit("coalesced", object.coalesced);
  visit("zero", object.zero);
  visit("removed", object.removed);
  visit("present", object.present);
}

void members(Is<RegionShape> auto& object, auto visit) {
  visit("size", object.size);
  visit("offset", object.offset);
  visit("page_size", object.page_size);
}

void members(Is<control::Prepare> auto& object, auto visit) {
  visit("snapshot", object.snapshot);
  visit("socket", object.socket);
  visit("state_out", object.state_out);
  visit("namespace", object.name_space);
  visit("owner_uid", object.owner_uid);
  visit("owner_gid", object.owner_gid);
  visit("on_unservable", object.on_unservable);
  visit("unservable_after_ms", object.unservable_after_ms);
  visit("record", object.record);
  visit("record_idle_ms", object.record_idle_ms);
  visit("record_most_ms", object.record_most_ms);
  visit("prefetch", object.prefetch);
  visit("hydrate_bytes_per_s", object.hydrate_bytes_per_s);
  visit("trace_out", object.trace_out);
  visit("shared", object.shared);
  visit("allow_root_vmm", object.allow_root_vmm);
  visit("verify", object.verify);
}

void members(auto& object, auto)
  requires(std::is_same_v<std::remove_cvref_t<decltype(object)>, control::List> ||
           std::is_same_v<std::remove_cvref_t<decltype(object)>, control::Upgrade>)
{
  static_cast<void>(object);
}

void members(Is<control::Stop> auto& object, auto visit) {
  visit("session", object.session);
  visit("kill", object.mode);
}

void members(Is<control::Prepared> auto& object, auto visit) {
  visit("session", object.session);
  visit("socket", object.socket);
  visit("memory_bytes", object.memory);
  visit("state_bytes", object.state);
  visit("regions", object.regions);
  visit("generation", object.generation);
  visit("warnings", object.warnings);
}

void members(Is<PrefetchSummary> auto& object, auto visit) {
  visit("state", object.state);
  visit("set_pages", object.set_pages);
  visit("prefetched_pages", object.prefetched_pages);
  visit("late_pages", object.late_pages);
  visit("packs", object.packs);
  visit("bytes", object.bytes);
  visit("hydrated_pages", object.hydrated_pages);
}

void members(Is<SessionReport> auto& object, auto visit) {
  visit("session", object.session);
  visit("snapshot", object.snapshot);
  visit("socket", object.socket);
  visit("state", object.state);
  visit("outcome", object.outcome);
  visit("vmm_pid", object.vmm_pid);
  visit("vmm_exit", object.vmm_exit);
  visit("vmm_unseen", object.vmm_unseen);
  visit("remove_events", object.remove_events);
  visit("slow_memory", object.slow_memory);
  visit("memory_bytes", object.memory);
  visit("shared", object.shared);
  visit("verified", object.verified);
  visit("present_pages", object.present_pages);
  visit("faults", object.faults);
  visit("prefetch", object.prefetch);
  visit("recording", object.recording);
  visit("recorded_pages", object.recorded_pages);
  visit("local_pages", object.local_pages);
  visit("around_pages", object.around_pages);
  visit("around_window", object.around_window);
  visit("around_probes", object.around_probes);
  visit("around_hits", object.around_hits);
  visit("removed_pages", object.removed_pages);
  visit("redundant_fills", object.redundant_fills);
  visit("gone_fills", object.gone_fills);
  visit("delayed_fills", object.delayed_fills);
  visit("damaged_chunks", object.damaged_chunks);
  visit("waiting_pages", object.waiting_pages);
  visit("memory_waiting_pages", object.memory_waiting_pages);
  visit("short_of", object.short_of);
  visit("poisoned_pages", object.poisoned_pages);
  visit("bytes_received", object.bytes_received);
  visit("handler_deaths", object.handler_deaths);
  visit("unserved_us", object.unserved_us);
  visit("latency_us_p50", object.latency_us_p50);
  visit("latency_us_p99", object.latency_us_p99);
  visit("latency_us_max", object.latency_us_max);
}

void members(Is<ServerReport> auto& object, auto visit) {
  visit("address", object.address);
  visit("state", object.state);
  visit("away_ms", object.away_ms);
  visit("requests", object.requests);
}

void members(Is<SessionTotals> auto& object, auto visit) {
  visit("sessions", object.sessions);
  visit("faults", object.faults);
  visit("poisoned_pages", object.poisoned_pages);
  visit("vmms_killed", object.vmms_killed);
}

void members(Is<HandlerReport> auto& object, auto visit) {
  visit("upgrades", object.upgrades);
  visit("upgrade_failure", object.upgrade_failure);
  visit("servers", object.servers);
  visit("hedges", object.hedges);
  visit("damaged", object.damaged);
  visit("unserved_us", object.unserved_us);
  visit("index_bytes", object.index_bytes);
  visit("index_bytes_most", object.index_bytes_most);
  visit("totals", object.totals);
  visit("sessions", object.sessions);
}

// To JSON.

template <typename T>
Json to_json(const T& value) {
  if constexpr (std::is_same_v<T, ByteCount> || std::is_same_v<T, ImageOffset>) {
    return value.value;
  } else if constexpr (Named<T>) {
    return name_of(value);
  } else if constexpr (std::is_same_v<T, control::StopMode>) {
    return value == control::StopMode::kKill;
  } else if constexpr (requires { value.has_value(); }) {
    return value ? Json(*value) : Json();
  } else if constexpr (requires(T t) { members(t, [](const char*, auto&) {}); }) {
    Json object = Json::object();
    members(value, [&](const char* name, const auto& member) { object[name] = to_json(member); });
    return object;
  } else if constexpr (requires { typename T::value_type; } && !std::is_same_v<T, std::string>) {
    Json array = Json::array();
    for (const auto& element : value) array.push_back(to_json(element));
    return array;
  } else {
    return value;
  }
}

// From JSON. A type mismatch throws nlohmann's exception, caught at the edge below.

template <typename T>
void from_json_to(const Json& json, T& value) {
  if constexpr (std::is_same_v<T, ByteCount> || std::is_same_v<T, ImageOffset>) {
    from_json_to(json, value.value);
  } else if constexpr (Named<T>) {
    const auto wanted = json.get<std::string>();
    const auto names = names_of(value);
    const auto found = std::ranges::find(names, wanted, &Name<T>::name);
    if (found == names.end()) throw Json::other_error::create(0, wanted, &json);
    value = found->value;
  } else if constexpr (std::is_same_v<T, control::StopMode>) {
    value = json.get<bool>() ? control::StopMode::kKill : control::StopMode::kRefuseIfAlive;
  } else if constexpr (requires { value.has_value(); }) {
    if (!json.is_null()) from_json_to(json, value.emplace());
  } else if constexpr (requires { members(value, [](const char*, auto&) {}); }) {
    std::size_t known = 0;
    members(value, [&](const char* name, auto& member) {
      const auto found = json.find(name);
      if (found == json.end()) return;
      ++known;
      from_json_to(*found, member);
    });
    if (!json.is_object() || known != json.size()) {
      throw Json::other_error::create(0, "not an object of the known fields", &json);
    }
  } else if constexpr (requires { typename T::value_type; } && !std::is_same_v<T, std::string>) {
    if (!json.is_array()) throw Json::other_error::create(0, "not an array", &json);
    for (const Json& element : json) from_json_to(element, value.emplace_back());
  } else if constexpr (std::is_unsigned_v<T> && !std::is_same_v<T, bool>) {
    // get<unsigned>() would wrap a negative or too large number.
    if (!json.is_number_unsigned() || json.get<std::uint64_t>() > std::numeric_limits<T>::max()) {
      throw Json::other_error::create(0, "not an unsigned number in range", &json);
    }
    value = json.get<T>();
  } else if constexpr (std::is_same_v<T, std::int64_t>) {
    const bool too_large = json.is_number_unsigned() && json.get<std::uint64_t>() > kMaxSigned;
    if (!json.is_number_integer() || too_large) {
      throw Json::other_error::create(0, "not a whole number in range", &json);
    }
    value = json.get<T>();
  } else {
    value = json.get<T>();
  }
}

template <typename T>
T from_json_as(const Json& json) {
  T value;
  from_json_to(json, value);
  return value;
}

Result<ControlRequest> decode_request(const Json& json) {
  const auto command = json.at("command").get<std::string>();
  const Json& arguments = json.at("arguments");
  if (json.size() != 2) return fail(ErrorCode::kMalformed, "control request with other fields");
  if (command == "prepare") return from_json_as<control::Prepare>(arguments);
  if (command == "list") return from_json_as<control::List>(arguments);
  if (command == "stop") return from_json_as<control::Stop>(arguments);
  if (command == "upgrade") return from_json_as<control::Upgrade>(arguments);
  return fail(ErrorCode::kUnsupported, "there is no control command \"{}\"", command);
}

Result<ControlReply> decode_reply(const Json& json) {
  if (const auto error = json.find("error"); error != json.end()) {
    const auto number = from_json_as<std::uint16_t>(error->at("number"));
    return ControlReply(
        Error(error_code_from_number(number), error->at("text").get<std::string>()));
  }
  if (json.contains("sessions")) return from_json_as<HandlerReport>(json);
  if (json.value("stopped", false)) return Stopped{};
  if (const auto upgrade = json.find("upgrading"); upgrade != json.end()) {
    if (upgrade->is_boolean()) return Upgrading{};  // of a handler that does not count them
    return Upgrading{from_json_as<std::uint64_t>(*upgrade)};
  }
  return from_json_as<control::Prepared>(json.at("prepared"));
}

/// The edge to the JSON library, which reports by exceptions.
template <typename Decode>
auto guard_json(std::string_view line, Decode decode) -> decltype(decode(Json())) {
  // The parser would take a zero byte for the end of the text.
  if (line.find('\0') != line.npos) {
    return fail(ErrorCode::kMalformed, "control message: a zero byte");
  }
  try {
    return decode(Json::parse(line));
  } catch (const Json::exception& exception) {
    return fail(ErrorCode::kMalformed, "control message: {}", exception.what());
  }
}

/// A line of JSON. Text that is no UTF-8, such as a file name, is replaced rather than thrown on.
std::string line_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

FaultCounters& FaultCounters::operator+=(const FaultCounters& other) {
  total += other.total;
  fetched += other.fetched;
  coalesced += other.coalesced;
  zero += other.zero;
  removed += other.removed;
  present += other.present;
  return *this;
}

SessionTotals& SessionTotals::operator+=(const SessionReport& session) {
  ++sessions;
  faults += session.faults;
  poisoned_pages += session.poisoned_pages;
  if (session.vmm_exit.starts_with("signal")) ++vmms_killed;
  return *this;
}

std::string_view session_state_name(SessionState state) { return name_of(state); }
std::string_view server_state_name(ServerState state) { return name_of(state); }
std::string_view recording_state_name(RecordingState state) { return name_of(state); }
std::string_view prefetch_state_name(PrefetchState state) { return name_of(state); }

std::string encode_control_request(const ControlRequest& request) {
  Json json;
  if (const auto* prepare = std::get_if<control::Prepare>(&request)) {
    json = {{"command", "prepare"}, {"arguments", to_json(*prepare)}};
  } else if (const auto* stop = std::get_if<control::Stop>(&request)) {
    json = {{"command", "stop"}, {"arguments", to_json(*stop)}};
  } else if (std::holds_alternative<control::Upgrade>(request)) {
    json = {{"command", "upgrade"}, {"arguments", Json::object()}};
  } else {
    json = {{"command", "list"}, {"arguments", Json::object()}};
  }
  return line_of(json);
}

std::string encode_control_reply(const ControlReply& reply) {
  Json json;
  if (const auto* error = std::get_if<Error>(&reply)) {
    json["error"] = {{"number", static_cast<std::uint16_t>(error->code())},
                     {"code", error_name(error->code())},
                     {"text", error->context()}};
  } else if (const auto* prepared = std::get_if<control::Prepared>(&reply)) {
    json["prepared"] = to_json(*prepared);
  } else if (const auto* handler = std::get_if<HandlerReport>(&reply)) {
    json = to_json(*handler);
  } else if (const auto* upgrading = std::get_if<Upgrading>(&reply)) {
    json["upgrading"] = upgrading->upgrade;
  } else {
    json["stopped"] = true;
  }
  return line_of(json);
}

Result<ControlRequest> decode_control_request(std::string_view line) {
  return guard_json(line, decode_request);
}

Result<ControlReply> decode_control_reply(std::string_view line) {
  return guard_json(line, decode_reply);
}

}  // namespace thaw
