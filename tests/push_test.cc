// `thaw push` against the real page server: images that are sparse, change or are many, and
// connections that break.

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <random>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/file.h"
#include "format/page_client.h"
#include "tests/support/programs.h"
#include "tests/support/relay.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

using Json = nlohmann::json;

class PushTest : public testing::Test {
 protected:
  PushTest() : server_(path("store")) {}

  std::string path(const std::string& name) const { return directory_.path(name); }
  std::string image_file(std::uint64_t seed, std::size_t pages) {
    const std::string name = path("image" + std::to_string(seed));
    write_file(name, make_image(seed, pages));
    return name;
  }
  void expect_identical(const std::string& name, const std::string& image) {
    const std::string out = path(name + ".out");
    EXPECT_EQ(server_.thaw({"pull", name, "--memory", out}).exit_code, 0);
    EXPECT_TRUE(read_file(out) == read_file(image)) << name;
  }
  static std::string error_of(const Outcome& outcome) {
    const Json json = Json::parse(outcome.output, nullptr, false);
    return json.is_object() && json.contains("error") ? json["error"]["code"] : "none";
  }

  ScratchDirectory directory_;
  PageServer server_;
};

TEST_F(PushTest, MemoryFileThatIsCutWhileItIsPushedIsRefused) {
  auto generator = seeded_generator();
  write_file(path("image"), random_bytes(generator, 4096 * kPageBytes));
  // Further than a push reads ahead.
  std::filesystem::resize_file(path("image"), 1u << 30);
  Relay relay(server_.address(), [&](Relay::Way, std::size_t before, MutableByteSpan piece) {
    constexpr std::size_t kMoment = 1u << 20;
    if (before < kMoment && kMoment <= before + piece.size()) {
      std::filesystem::resize_file(path("image"), 2048 * kPageBytes);
    }
    return true;
  });
  const Outcome pushed = run({program_path("thaw"), "--json", "--insecure", "--server",
                              relay.address(), "push", "a", "--memory", path("image")});
  EXPECT_EQ(error_of(pushed), "truncated") << pushed.output;
  EXPECT_EQ(error_of(server_.thaw({"show", "a"})), "not_found");
}

TEST_F(PushTest, DroppedPushGoesOnWithoutSendingPagesAgain) {
  auto generator = seeded_generator();
  write_file(path("image"), random_bytes(generator, 4096 * kPageBytes));
  std::atomic<std::size_t> left = 9u << 20;
  Relay relay(server_.address(), [&](Relay::Way way, std::size_t, MutableByteSpan piece) {
    const std::size_t before = left;
    if (way == Relay::Way::kToClient || before == 0) return true;
    left = before - std::min(before, piece.size());
    return left > 0;
  });
  const Outcome pushed = run({program_path("thaw"), "--json", "--insecure", "--server",
                              relay.address(), "push", "a", "--memory", path("image")});
  ASSERT_EQ(pushed.exit_code, 0) << pushed.output;
  const Json report = Json::parse(pushed.output);
  EXPECT_EQ(report["reconnects"], 1);
  // Only what was under way is sent a second time: a few megabytes in the sockets on the way.
  EXPECT_LE(report["uploaded_bytes"], (4096 + 3072) * (kPageBytes + 16));
  expect_identical("a", path("image"));
}

TEST_F(PushTest, EightPushesAtOnceArePulledBackIdentical) {
  std::vector<Program> pushes;
  for (std::uint64_t i = 0; i < 8; ++i) {
    pushes.emplace_back(std::vector<std::string>{
        program_path("thaw"), "--json", "--insecure", "--server", server_.address(), "push",
        "s" + std::to_string(i), "--memory", image_file(i, 1200 + i * 100)});
  }
  for (Program& program : pushes) {
    const std::string output = program.rest_of_output();
    EXPECT_EQ(program.wait().value(), 0) << output;
  }
  for (std::uint64_t i = 0; i < 8; ++i) {
    expect_identical("s" + std::to_string(i), path("image" + std::to_string(i)));
  }
}

TEST_F(PushTest, PushGoesWithoutIoUring) {
  const std::string image = image_file(1, 3000);
  const Outcome pushed = run({program_path("without_io_uring"), program_path("thaw"), "--insecure",
                              "--server", server_.address(), "push", "a", "--memory", image});
  EXPECT_EQ(pushed.exit_code, 0) << pushed.output;
  expect_identical("a", image);
}

/// Images with the page tables of a guest in them.
class ColdPagesTest : public PushTest {
 protected:
  ColdPagesTest() {
    for (std::uint64_t page = 1; page < 4; ++page) set_entry(page, 0, page + 1);
    for (std::uint64_t page = 1000; page < 1100; ++page) set_entry(4, page - 1000, page);
    write_file(path("image"), image_);
  }

  /// The entries of a table are its content alone: others lead nowhere.
  void set_entry(std::uint64_t table, std::size_t entry, std::uint64_t page) {
    const auto start = image_.begin() + static_cast<std::ptrdiff_t>(table * kPageBytes);
    if (entry == 0) std::fill_n(start, kPageBytes, std::byte{0});
    store_le(&*start + entry * 8, page * kPageBytes | 1);
  }
  Outcome push(std::vector<std::string> more) {
    more.insert(more.begin(), {"push", "a", "--memory", path("image")});
    return server_.thaw(more);
  }
  bool is_cold(std::uint64_t page) const {
    return (page < 1 || page > 4) && (page < 1000 || page >= 1100);
  }

  Bytes image_ = make_image(1, 3000);
};

TEST_F(ColdPagesTest, PagesThatNoTableReachesAreCountedAndKept) {
  std::uint64_t cold = 0;
  for (std::uint64_t page = 0; page < 3000; ++page) {
    const PageSpan content(image_.data() + page * kPageBytes, kPageBytes);
    if (is_cold(page) && !is_zero_page(content)) ++cold;
  }
  const Outcome pushed = push({"--cr3", "0x1000"});
  ASSERT_EQ(pushed.exit_code, 0) << pushed.output;
  EXPECT_EQ(Json::parse(pushed.output)["cold_pages"], cold);
  EXPECT_EQ(Json::parse(server_.thaw({"show", "a"}).output)["cold_pages"], cold);
  auto client = PageClient::connect(resolve_tcp(server_.address()).value(), "default");
  ASSERT_TRUE(succeeded(client));
  const Manifest manifest = client->show("a").value();
  EXPECT_EQ(client->cold_map(manifest).value(),
            (ColdMap{{{0}, {1}}, {{5}, {995}}, {{1100}, {1900}}}));
  expect_identical("a", path("image"));
  EXPECT_EQ(server_.thaw({"rm", "a"}).exit_code, 0);
  EXPECT_EQ(Json::parse(push({}).output)["cold_pages"], 0);
  EXPECT_EQ(code_of(client->cold_map(client->show("a").value())), ErrorCode::kNotFound);
}

TEST_F(ColdPagesTest, RootsThatLeadNowhereAreRefused) {
  EXPECT_EQ(error_of(push({"--cr3", "0x1000", "--cr3", "0x40000000"})), "invalid_argument");
  EXPECT_EQ(error_of(push({"--cr3", "0x1000", "--below-4g", "1G"})), "invalid_argument");
  EXPECT_EQ(push({"--cr3", "root"}).exit_code, 2);
  EXPECT_EQ(push({"--cr3", "0x1000", "--parent", "b", "--diff"}).exit_code, 2);
  EXPECT_EQ(push({"--la57"}).exit_code, 2);
  EXPECT_EQ(error_of(server_.thaw({"show", "a"})), "not_found");
}

/// A memory file of holes with data here and there.
class SparseImageTest : public PushTest {
 protected:
  void write_pages(const std::string& name, std::uint64_t first, ByteSpan content) {
    const UniqueFd file(::open(path(name).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_TRUE(succeeded(write_at(file, content, first * kPageBytes)));
  }
  void make_file(const std::string& name, std::uint64_t pages) {
    write_file(path(name), {});
    std::filesystem::resize_file(path(name), pages * kPageBytes);
  }
};

TEST_F(SparseImageTest, IsPulledBackIdenticalWhereverItsDataIs) {
  make_file("image", 20000);
  for (const std::uint64_t first : {0u, 7u, 1023u, 1025u, 4096u, 9000u, 19990u}) {
    write_pages("image", first, make_image(first, 10));
  }
  write_pages("image", 12000, make_image(1, 2500));
  const Bytes state = make_image(2, 1030);
  write_file(path("state"), ByteSpan(state).first(1029 * kPageBytes + 5));
  const Outcome pushed =
      server_.thaw({"push", "a", "--memory", path("image"), "--state", path("state")});
  ASSERT_EQ(pushed.exit_code, 0) << pushed.output;
  ASSERT_EQ(server_.thaw({"pull", "a", "--memory", path("m"), "--state", path("s")}).exit_code, 0);
  EXPECT_TRUE(read_file(path("m")) == read_file(path("image")));
  EXPECT_TRUE(read_file(path("s")) == read_file(path("state")));
}

TEST_F(SparseImageTest, NeedsLittleMemoryHoweverLargeItIs) {
  constexpr std::uint64_t kPages = 1u << 19;  // 2 GiB, of which 512 MiB are data
  constexpr std::uint64_t kDataPages = 1u << 17;
  make_file("image", kPages);
  const Bytes content = make_image(1, 1024);
  for (std::uint64_t first = 0; first < kDataPages; first += 1024) {
    write_pages("image", kPages - kDataPages + first, content);
  }
  Program push({program_path("thaw"), "--json", "--insecure", "--server", server_.address(), "push",
                "a", "--memory", path("image")});
  std::size_t peak = 0;
  const Deadline deadline = Deadline::after(kPatience);
  while (const auto now = peak_resident_bytes(push.pid())) {
    peak = *now;
    if (deadline.passed()) break;
  }
  const Json report = Json::parse(push.rest_of_output());
  EXPECT_EQ(push.wait().value(), 0);
  EXPECT_GE(report["zero_pages"], kPages - kDataPages);
  EXPECT_GT(peak, 0u);
  EXPECT_LT(peak, 256u << 20);
}

/// Snapshots that are pushed as what changed since the one before.
class DiffPushTest : public SparseImageTest {
 protected:
  /// Changes some pages of `image` and makes some zero; "diff" is a file of those alone.
  void change(Bytes& image, std::mt19937_64& generator) {
    make_file("diff", image.size() / kPageBytes);
    for (int i = 0; i < 40; ++i) {
      const std::uint64_t count = 1 + pick(generator, 30);
      const std::uint64_t first = pick(generator, image.size() / kPageBytes - count);
      const Bytes content =
          i % 4 == 0 ? Bytes(count * kPageBytes) : random_bytes(generator, count * kPageBytes);
      std::ranges::copy(content, image.begin() + static_cast<std::ptrdiff_t>(first * kPageBytes));
      write_pages("diff", first, content);
    }
  }
  Outcome push_diff(const std::string& name, const std::string& parent) {
    return server_.thaw({"push", name, "--memory", path("diff"), "--parent", parent, "--diff",
                         "--state", path("state")});
  }
};

TEST_F(DiffPushTest, ChainIsPulledBackIdenticalWithoutItsParents) {
  auto generator = seeded_generator();
  Bytes image = make_image(1, 6000);
  image.resize(9000 * kPageBytes);
  write_file(path("full"), image);
  write_file(path("state"), as_bytes("first state"));
  ASSERT_EQ(server_.thaw({"push", "s0", "--memory", path("full")}).exit_code, 0);
  for (int depth = 1; depth <= 5; ++depth) {
    change(image, generator);
    write_file(path("state"), as_bytes(std::string(static_cast<std::size_t>(depth) * 3000, 's')));
    const std::string parent = "s" + std::to_string(depth - 1);
    const Outcome pushed = push_diff("s" + std::to_string(depth), parent);
    ASSERT_EQ(pushed.exit_code, 0) << pushed.output;
    const Json report = Json::parse(pushed.output);
    EXPECT_GT(report["changed_pages"], 0);
    EXPECT_GT(report["became_zero_pages"], 0);
    EXPECT_LE(report["new_pages"], report["changed_pages"]);
    ASSERT_EQ(server_.thaw({"rm", parent}).exit_code, 0);
  }
  ASSERT_EQ(server_.thaw({"pull", "s5", "--memory", path("m"), "--state", path("s")}).exit_code, 0);
  EXPECT_TRUE(read_file(path("m")) == image);
  EXPECT_TRUE(read_file(path("s")) == read_file(path("state")));
}

TEST_F(DiffPushTest, IsRefusedWithoutAParentOfItsSize) {
  write_file(path("state"), {});
  ASSERT_EQ(server_.thaw({"push", "parent", "--memory", image_file(1, 2000)}).exit_code, 0);
  make_file("diff", 2001);
  EXPECT_EQ(error_of(push_diff("a", "parent")), "invalid_argument");
  EXPECT_EQ(error_of(push_diff("a", "nothing")), "not_found");
  EXPECT_EQ(server_.thaw({"push", "a", "--memory", path("diff"), "--diff"}).exit_code, 2);
  make_file("diff", 2000);
  EXPECT_EQ(push_diff("a", "parent").exit_code, 0);
  EXPECT_EQ(push_diff("a", "parent").exit_code, 5);
  expect_identical("a", path("image1"));
}

}  // namespace
}  // namespace thaw::test
