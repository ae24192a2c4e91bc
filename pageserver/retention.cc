#include "pageserver/retention.h"

#include <algorithm>
#include <functional>
#include <map>

namespace thaw {

namespace {

/// The snapshots of one value of the label count together; so do all without it.
std::string group_of(const Manifest& snapshot, const std::string& label) {
  if (label.empty()) return {};
  const auto found = std::ranges::find(snapshot.spec.labels, label, &Label::key);
  return found == snapshot.spec.labels.end() ? std::string() : "=" + found->value;
}

}  // namespace

std::vector<const Manifest*> outdated(const std::vector<Manifest>& snapshots,
                                      const std::set<std::string>& tagged,
                                      const message::NamespaceSettings& settings,
                                      std::uint64_t now_unix_ms) {
  if (settings.keep_last == 0 && settings.keep_seconds == 0) return {};
  std::vector<const Manifest*> newest_first;
  for (const Manifest& snapshot : snapshots) newest_first.push_back(&snapshot);
  std::ranges::sort(newest_first, std::greater{}, &Manifest::snapshot);
  std::map<std::string, std::uint64_t> counted;
  std::vector<const Manifest*> old;
  for (const Manifest* const snapshot : newest_first) {
    const bool among_last =
        counted[group_of(*snapshot, settings.keep_per_label)]++ < settings.keep_last;
    const std::uint64_t age_ms = now_unix_ms - std::min(now_unix_ms, snapshot->created_unix_ms);
    const bool young = age_ms / 1000 < settings.keep_seconds;
    if (among_last || young || tagged.contains(snapshot->spec.name)) continue;
    old.push_back(snapshot);
  }
  std::ranges::reverse(old);
  return old;
}

}  // namespace thaw
