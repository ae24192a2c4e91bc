#include "tests/support/ledger.h"

#include <gtest/gtest.h>

#include "tests/support/drawn_image.h"

namespace thaw::test {

namespace {

std::string mark_of(const Manifest& manifest) {
  for (const Label& label : manifest.spec.labels) {
    if (label.key == Ledger::kMarkLabel) return label.value;
  }
  return {};
}

void settle_snapshots(Ledger& ledger, StoreNames& found) {
  for (auto entry = ledger.snapshots.begin(); entry != ledger.snapshots.end();) {
    auto& [name, known] = *entry;
    const auto there = found.snapshots.extract(name);
    if (there.empty()) {
      EXPECT_TRUE(known.standing == Ledger::Snapshot::Standing::kUnderWay) << name << " is lost";
      entry = ledger.snapshots.erase(entry);
      continue;
    }
    EXPECT_EQ(seeds_of(there.mapped().spec.labels), known.seeds) << name;
    const std::string mark = mark_of(there.mapped());
    EXPECT_TRUE(known.marks.contains(mark)) << name << " has the label \"" << mark << "\"";
    known.marks = {mark};
    known.standing = Ledger::Snapshot::Standing::kAcknowledged;
    ++entry;
  }
}

}  // namespace

void Ledger::forget(const std::string& name) {
  snapshots.erase(name);
  for (auto& [tag, names] : tags) {
    if (names.erase(name) > 0) names.insert("");
  }
}

Result<StoreNames> names_in(PageClient& client) {
  StoreNames names;
  PageClient::SnapshotList list = TRY(client.list());
  for (Manifest& manifest : list.snapshots) {
    const std::string name = manifest.spec.name;
    names.snapshots.emplace(name, std::move(manifest));
  }
  for (const message::Tag& tag : TRY(client.tags())) names.tags.emplace(tag.tag, tag.name);
  return names;
}

void settle(Ledger& ledger, StoreNames& found) {
  settle_snapshots(ledger, found);
  for (auto& [tag, names] : ledger.tags) {
    std::set<std::string> possible;
    for (const std::string& name : names) {
      possible.insert(ledger.snapshots.contains(name) ? name : "");
    }
    const auto there = found.tags.extract(tag);
    const std::string name = there.empty() ? "" : there.mapped();
    EXPECT_TRUE(possible.contains(name)) << tag << " stands for \"" << name << "\"";
    names = {name};
  }
}

}  // namespace thaw::test
