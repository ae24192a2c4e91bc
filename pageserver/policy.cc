#include <array>

#include "base/byte_size.h"
#include "base/toml.h"
#include "format/manifest.h"
#include "pageserver/access.h"

namespace thaw {

namespace {

constexpr std::array<std::string_view, 1> kTables{"peer"};
constexpr std::array<std::string_view, 4> kKeysOfPeer{"identity", "namespaces", "roles", "quota"};

/// The strings of an array that has some.
Result<std::vector<std::string>> read_strings(const toml::node& node) {
  const toml::array* const array = node.as_array();
  if (array == nullptr || array->empty()) return refuse_toml(node, "no list of strings");
  std::vector<std::string> strings;
  for (const toml::node& element : *array) {
    const auto text = element.value_exact<std::string>();
    if (!text) return refuse_toml(element, "no string");
    strings.push_back(*text);
  }
  return strings;
}

Result<std::vector<std::string>> read_namespaces(const toml::node& node) {
  std::vector<std::string> patterns = TRY(read_strings(node));
  for (const std::string& pattern : patterns) {
    const std::string beginning =
        pattern.ends_with('*') ? pattern.substr(0, pattern.size() - 1) : pattern;
    const bool valid = pattern == "*" || check_name(beginning, "namespace").has_value();
    if (!valid || beginning.contains('*'))
      return refuse_toml(node, "\"" + pattern + "\" stands for no namespace");
  }
  return patterns;
}

struct NamedRight {
  std::string_view role;
  Right right;
};
constexpr std::array kRoles{NamedRight{"read", Right::kRead}, NamedRight{"push", Right::kPush},
                            NamedRight{"create", Right::kCreate}, NamedRight{"tag", Right::kTag},
                            NamedRight{"admin", Right::kAdmin}};

Result<Rights> read_rights(const toml::node& node) {
  Rights rights;
  for (const std::string& role : TRY(read_strings(node))) {
    const auto known = std::ranges::find(kRoles, role, &NamedRight::role);
    if (known == kRoles.end()) {
      return refuse_toml(
          node, "\"" + role + "\" is no role; there are read, push, create, tag and admin");
    }
    rights.add({known->right});
  }
  return rights;
}

}  // namespace

Result<Policy> Policy::parse(std::string_view text) {
  const toml::table table = TRY(parse_toml(text));
  Policy policy;
  for (const auto& [key, node] : table) {
    const toml::array* const peers = key == "peer" ? node.as_array() : nullptr;
    if (key != "peer") return refuse_unknown(key, "key", kTables);
    if (peers == nullptr) return refuse_toml(node, "there is [[peer]] and nothing else");
    for (const toml::node& entry : *peers) {
      const toml::table* const peer = entry.as_table();
      if (peer == nullptr) return refuse_toml(entry, "there is [[peer]] and nothing else");
      Grant grant;
      for (const auto& [name, value] : *peer) {
        if (name == "identity") {
          if (!value.is_string()) return refuse_toml(value, "an identity is a string");
          grant.identity = value.value_exact<std::string>().value_or("");
        } else if (name == "namespaces") {
          grant.quota.namespaces = TRY(read_namespaces(value));
        } else if (name == "roles") {
          grant.rights = TRY(read_rights(value));
        } else if (name == "quota") {
          const auto size = value.value_exact<std::string>();
          const auto bytes = parse_size(size.value_or(""));
          if (!bytes || *bytes == 0) return refuse_toml(value, "no quota such as \"500G\"");
          grant.has_quota = true;
          grant.quota.bytes = *bytes;
        } else {
          return refuse_unknown(name, "key", kKeysOfPeer);
        }
      }
      if (grant.identity.empty() || grant.quota.namespaces.empty() || grant.rights.none()) {
        return refuse_toml(entry, "a peer without an identity, namespaces or roles");
      }
      policy.grants_.push_back(std::move(grant));
    }
  }
  return policy;
}

}  // namespace thaw
