#include "pageserver/store_check.h"

#include "pageserver/verification.h"

namespace thaw {

namespace {

class CheckControl final : public Unpaced {
 public:
  CheckControl(bool repair, std::vector<std::string>& problems)
      : repair_(repair), problems_(problems) {}

  Result<void> write(const Work& work) override { return repair_ ? work() : Result<void>(); }
  void add_finding(std::string finding) override { problems_.push_back(std::move(finding)); }

 private:
  const bool repair_;
  std::vector<std::string>& problems_;
};

Result<void> check_namespace(Store& store, NamespaceId in, bool repair, StoreCheck& check) {
  CheckControl control(repair, check.problems);
  const VerificationReport report = TRY(Verification(store, in, control).run_from_the_start());
  check.snapshots += report.snapshots;
  check.chunks += report.chunks;
  check.bytes += report.bytes;
  if (report.unindexed > 0) {
    control.add_finding(fmt::format("{} chunks were not led to by their hash", report.unindexed));
  }
  for (std::string& stray : TRY(store.strays(in))) control.add_finding(std::move(stray));
  const NamespaceTotals counted = TRY(store.chunk_upkeep().count(in));
  const NamespaceTotals totals = TRY(store.totals(in));
  if (counted == totals) return {};
  control.add_finding(fmt::format(
      "{} chunks of {} bytes and {} other bytes are there, {} of {} and {} were counted",
      counted.chunks, counted.chunk_bytes, counted.bytes() - counted.chunk_bytes, totals.chunks,
      totals.chunk_bytes, totals.bytes() - totals.chunk_bytes));
  return control.write([&] { return store.chunk_upkeep().set_totals(in, counted); });
}

}  // namespace

Result<StoreCheck> check_store(Store& store, bool repair) {
  StoreCheck check;
  check.problems = store.damaged_files();
  for (const NamedNamespace& each : TRY(store.namespaces())) {
    const std::size_t before = check.problems.size();
    // What cannot be read is one more problem, and the others are still worth knowing.
    if (const auto checked = check_namespace(store, each.id, repair, check); !checked) {
      check.problems.push_back(checked.error().message());
    }
    for (std::size_t i = before; i < check.problems.size(); ++i) {
      check.problems[i].insert(0, fmt::format("namespace {}: ", each.name));
    }
  }
  return check;
}

}  // namespace thaw
