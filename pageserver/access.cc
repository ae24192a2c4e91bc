#include "pageserver/access.h"

#include <algorithm>
#include <type_traits>

#include "base/log.h"
#include "base/private_files.h"
#include "pageserver/limits.h"

namespace thaw {

namespace {

template <typename T, typename... Kinds>
constexpr bool kIsOneOf = (std::is_same_v<T, Kinds> || ...);

/// The table. What is not in it is no request, and nobody may send it.
template <typename T>
constexpr Rights rights_for_kind() {
  using namespace message;
  // What says that snapshots are there, and nothing of what is in them.
  if (kIsOneOf<T, Hello, ListSnapshots, ShowSnapshot, ListTags, GetUsage, GetNamespace,
               GetStatistics>) {
    return Rights::all();
  }
  // What a restore brings back, recordings and reports, can cost others time and nothing else:
  // what is said to be damaged is looked at and not believed.
  if (kIsOneOf<T, GetPageMap, GetPageHashes, GetColdMap, GetChunks, GetPack, Pin, Unpin,
               GetRecording, GetWorkingSet, ShowWorkingSet, PutRecording, PutPrefetchReport,
               ReportDamage>) {
    return {Right::kRead, Right::kAdmin};
  }
  if (kIsOneOf<T, BeginPush, Offer, Upload, Commit, ChangeLabels>) {
    return {Right::kPush, Right::kAdmin};
  }
  // Restores by tag begin with what its mover says.
  if (kIsOneOf<T, MoveTag, RemoveTag>) return {Right::kTag, Right::kAdmin};
  // With a namespace its quota goes, so who may make one may not remove it.
  if (kIsOneOf<T, DeleteSnapshot, DropWorkingSet, SetNamespace, RemoveNamespace, StartJob, GetJob,
               StopJob>) {
    return {Right::kAdmin};
  }
  return {};
}

bool matches(std::string_view pattern, std::string_view name_space) {
  if (pattern.ends_with('*')) return name_space.starts_with(pattern.substr(0, pattern.size() - 1));
  return pattern == name_space;
}

}  // namespace

Rights rights_for(const Message& request) {
  return std::visit(
      [](const auto& kind) { return rights_for_kind<std::decay_t<decltype(kind)>>(); }, request);
}

bool concerns_all_namespaces(const Message& request) {
  const auto* const start = std::get_if<message::StartJob>(&request);
  return start != nullptr &&
         (start->kind == message::JobKind::kBackup || start->kind == message::JobKind::kCompact);
}

bool Policy::Quota::covers(std::string_view name_space) const {
  return std::ranges::any_of(
      namespaces, [&](const std::string& pattern) { return matches(pattern, name_space); });
}

Rights Policy::rights(std::string_view identity, std::string_view name_space) const {
  Rights rights;
  for (const Grant& grant : grants_) {
    if (grant.identity == identity && grant.quota.covers(name_space)) rights.add(grant.rights);
  }
  return rights;
}

Rights Policy::rights_in_all(std::string_view identity) const {
  Rights rights;
  for (const Grant& grant : grants_) {
    const auto& patterns = grant.quota.namespaces;
    const bool all = std::ranges::find(patterns, "*") != patterns.end();
    if (all && grant.identity == identity) rights.add(grant.rights);
  }
  return rights;
}

bool Policy::names(std::string_view identity) const {
  return std::ranges::find(grants_, identity, &Grant::identity) != grants_.end();
}

std::vector<Policy::Quota> Policy::quotas(std::string_view identity,
                                          std::string_view name_space) const {
  std::vector<Quota> found;
  for (const Grant& grant : grants_) {
    if (grant.has_quota && grant.identity == identity && grant.quota.covers(name_space)) {
      found.push_back(grant.quota);
    }
  }
  return found;
}

void Policy::admit_users(std::uint32_t server_user) {
  const auto names_user = [](const Grant& grant) {
    return grant.identity.starts_with(kUserIdentity);
  };
  if (std::ranges::any_of(grants_, names_user)) return;
  for (const std::uint32_t user : {std::uint32_t{0}, server_user}) {
    Grant all;
    all.identity = fmt::format("{}{}", kUserIdentity, user);
    all.quota.namespaces = {"*"};
    all.rights = {Right::kAdmin};
    grants_.push_back(std::move(all));
  }
}

Result<std::shared_ptr<const Policy>> Access::read() const {
  const std::string text =
      path_.empty() ? std::string() : TRY(read_trusted_file(path_, limits::kMaxPolicyBytes));
  auto policy = Policy::parse(text);
  if (!policy) {
    return fail(policy.error().code(), "the policy {}: {}", path_, policy.error().context());
  }
  if (server_user_) policy->admit_users(*server_user_);
  return std::make_shared<const Policy>(*std::move(policy));
}

Result<std::unique_ptr<Access>> Access::load(const std::string& path,
                                             std::optional<std::uint32_t> server_user) {
  std::unique_ptr<Access> access(new Access(path, server_user));
  access->policy_ = TRY(access->read());
  return access;
}

std::shared_ptr<const Policy> Access::policy() const {
  const std::lock_guard lock(mutex_);
  return policy_;
}

void Access::refresh() {
  if (watch_.changed()) reload();
}

void Access::reload() {
  static_cast<void>(watch_.changed());  // what is read now is no change later
  if (path_.empty()) return;
  auto policy = read();
  if (!policy) {
    log_error("the policy is no good, what was read before stays in force: {}",
              policy.error().message());
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    policy_ = *std::move(policy);
  }
  generation_.fetch_add(1, std::memory_order_release);
  log_info("read the policy {} again", path_);
}

}  // namespace thaw
