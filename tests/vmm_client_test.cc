#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/event_fd.h"
#include "base/file.h"
#include "base/memory_file.h"
#include "base/socket.h"
#include "base/userfaultfd.h"
#include "format/farewell.h"
#include "format/limits.h"
#include "tests/support/huge_page_pool.h"
#include "tests/support/restore_in_c.h"
#include "tests/support/test_support.h"
#include "vmm-client/guest_memory.h"
#include "vmm-client/thaw.h"

namespace thaw {
namespace {

using namespace std::chrono_literals;
using test::code_of;
using test::HugePagePool;

constexpr ByteCount kSmall{kPageBytes};
constexpr ByteCount kHuge{kHugePageBytes};
constexpr std::uint64_t kFileBytes = 64u << 20;

Deadline soon() { return Deadline::after(10s); }

/// The image that the handler below serves: every second page is zero.
std::byte image_byte(ImageOffset offset) {
  const std::uint64_t page = page_of(offset).value;
  return static_cast<std::byte>(page % 2 == 0 ? 0 : page % 251 + 1);
}

Bytes image_bytes(ImageOffset offset, ByteCount length) {
  Bytes bytes(length.value);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = image_byte(offset + ByteCount{i});
  return bytes;
}

/// A fault handler on a thread: takes one handoff and serves image_byte() until it is destroyed.
class TestHandler {
 public:
  explicit TestHandler(const std::string& path)
      : listener_(listen_unix(path, std::nullopt).value()),
        stop_(::eventfd(0, EFD_CLOEXEC)),
        thread_([this] { run(); }) {}
  /// Ends like a handler that dies: nothing is filled any more, its descriptors are closed.
  ~TestHandler() {
    CHECK(::eventfd_write(stop_.get(), 1) == 0);
    thread_.join();
  }

  std::vector<HandoffRegion> wait_for_handoff() {
    auto handoff = handoff_.get_future();
    CHECK(handoff.wait_for(10s) == std::future_status::ready);
    return handoff.get();
  }
  /// Whether the VMM has given its memory up.
  bool was_left() const { return left_; }

 private:
  bool wait_readable(const UniqueFd& fd) {
    std::array<pollfd, 3> requests{
        {{fd.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}, {socket_.get(), POLLIN, 0}}};
    CHECK(::poll(requests.data(), requests.size(), -1) > 0);
    return requests[1].revents == 0 && (requests[2].revents == 0 || regions_.empty());
  }

  void run() {
    if (!wait_readable(listener_)) return;
    socket_ = accept_connection(listener_, soon()).value();
    if (!receive()) return;
    handoff_.set_value(regions_);
    std::vector<MemoryEvent> events;
    while (wait_readable(uffd_)) {
      events.clear();
      CHECK(read_events(uffd_, events).has_value());
      for (const MemoryEvent& event : events) {
        if (const auto* fault = std::get_if<FaultEvent>(&event)) serve(fault->address);
      }
    }
    std::byte byte{0};
    const auto last = receive_with_descriptors(socket_, {&byte, 1}).value();
    left_ = last && last->bytes == 1 && byte == kFarewell;
    uffd_.reset();
    socket_.reset();
  }

  bool receive() {
    HandoffScanner scanner;
    std::string text;
    for (bool complete = false; !complete;) {
      if (!wait_readable(socket_)) return false;
      std::array<std::byte, 1024> piece;
      auto received = receive_with_descriptors(socket_, piece).value();
      if (!received || received->bytes == 0) return false;
      if (!received->descriptors.empty()) uffd_ = std::move(received->descriptors.front());
      const ByteSpan bytes = ByteSpan(piece).first(received->bytes);
      text += as_text(bytes);
      complete = scanner.feed(bytes).value();
    }
    CHECK(check_userfaultfd(uffd_).has_value());
    regions_ = decode_handoff(text).value();
    return true;
  }

  void serve(HostAddress address) {
    for (const HandoffRegion& region : regions_) {
      if (address < region.base || (address - region.base) >= region.size) continue;
      const ByteCount in_region{(address - region.base).value / region.page_size.value *
                                region.page_size.value};
      const HostAddress page = region.base + in_region;
      const Bytes content = image_bytes(region.offset + in_region, region.page_size);
      const bool zero = region.page_size == kSmall && content[0] == std::byte{0};
      const FillResult filled =
          zero ? zero_pages(uffd_, page, kSmall)
               : copy_pages(uffd_, page, content, Waiters::kWake, region.tracking);
      CHECK(filled.outcome == FillOutcome::kFilled || filled.outcome == FillOutcome::kExists);
      return;
    }
    CHECK(!"a fault outside every region");
  }

  UniqueFd listener_;
  UniqueFd stop_;
  UniqueFd socket_;
  UniqueFd uffd_;
  std::vector<HandoffRegion> regions_;
  std::promise<std::vector<HandoffRegion>> handoff_;
  std::atomic<bool> left_ = false;
  std::thread thread_;  // last: it uses all of the above
};

std::vector<std::string> open_descriptors() {
  std::vector<std::string> targets;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    targets.push_back(std::filesystem::read_symlink(entry).string());
  }
  std::ranges::sort(targets);
  return targets;
}

/// Duplicates of the userfaultfds of this process.
std::vector<UniqueFd> own_userfaultfds() {
  std::vector<int> numbers;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;  // the directory's own descriptor
    if (std::filesystem::read_symlink(entry, gone) != "anon_inode:[userfaultfd]") continue;
    numbers.push_back(std::stoi(entry.path().filename()));
  }
  std::vector<UniqueFd> found;
  for (const int number : numbers) found.emplace_back(::dup(number));
  return found;
}

/// The VmFlags of the mapping that holds the address, as /proc/self/smaps spells them.
std::string mapping_flags(const void* address) {
  std::ifstream smaps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    unsigned long start = 0;
    unsigned long end = 0;
    // SAFETY: an address as a number, compared with those of the file.
    const auto wanted = reinterpret_cast<unsigned long>(address);
    if (std::sscanf(line.c_str(), "%lx-%lx ", &start, &end) == 2) {
      inside = start <= wanted && wanted < end;
    }
    if (inside && line.starts_with("VmFlags:")) return line + " ";
  }
  return {};
}

/// A directory on tmpfs for sockets and memory files.
class VmmClientTest : public testing::Test {
 protected:
  VmmClientTest() {
    CHECK(::mkdtemp(directory_.data()) != nullptr);
    socket_path_ = directory_ + "/session";
    memory_path_ = directory_ + "/memory";
  }
  ~VmmClientTest() override { std::filesystem::remove_all(directory_); }

  std::string directory_ = "/dev/shm/thaw-vmm-client-XXXXXX";
  std::string socket_path_;
  std::string memory_path_;
};

class GuestMemoryTest : public VmmClientTest {};

TEST_F(GuestMemoryTest, MissingPagesAreServedByTheHandler) {
  TestHandler handler(socket_path_);
  const std::array shapes{GuestRegion{{3 * kPageBytes}, kSmall},
                          GuestRegion{{64 * kPageBytes}, kSmall}};
  auto memory = GuestMemory::create(shapes).value();
  ASSERT_TRUE(memory.hand_over(socket_path_, soon()));

  const auto regions = handler.wait_for_handoff();
  ASSERT_EQ(regions.size(), 2u);
  EXPECT_EQ(regions[0].offset.value, 0u);
  EXPECT_EQ(regions[1].offset.value, 3 * kPageBytes);
  EXPECT_EQ(regions[1].size.value, 64 * kPageBytes);
  EXPECT_EQ(regions[1].page_size, kSmall);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(
        std::ranges::equal(memory.region(i), image_bytes(regions[i].offset, regions[i].size)));
  }
}

TEST_F(GuestMemoryTest, HugePagesAreServedByTheHandler) {
  const HugePagePool pool(2);
  if (pool.free() < 2) GTEST_SKIP() << "needs two free 2 MiB pages in the hugetlbfs pool";
  TestHandler handler(socket_path_);
  const std::array shapes{GuestRegion{{2 * kHugePageBytes}, kHuge}};
  auto memory = GuestMemory::create(shapes).value();
  ASSERT_TRUE(memory.hand_over(socket_path_, soon()));
  EXPECT_EQ(handler.wait_for_handoff()[0].page_size, kHuge);
  EXPECT_TRUE(std::ranges::equal(memory.region(0), image_bytes({0}, {2 * kHugePageBytes})));
}

TEST_F(GuestMemoryTest, MoreHugePagesThanThePoolHasAreRefused) {
  const HugePagePool pool(0);
  const std::array shapes{GuestRegion{{(pool.free() + 1024) * kHugePageBytes}, kHuge}};
  const auto memory = GuestMemory::create(shapes);
  ASSERT_FALSE(memory);
  EXPECT_EQ(memory.error().code(), ErrorCode::kNoSpace);
}

TEST_F(GuestMemoryTest, ManyRegionsFitOneHandoff) {
  TestHandler handler(socket_path_);
  const std::vector<GuestRegion> shapes(limits::kMaxRegions, {kSmall, kSmall});
  auto memory = GuestMemory::create(shapes).value();
  ASSERT_TRUE(memory.hand_over(socket_path_, soon()));
  EXPECT_EQ(handler.wait_for_handoff().size(), limits::kMaxRegions);
  EXPECT_EQ(memory.region(777)[5], image_byte({777 * kPageBytes}));
}

TEST_F(GuestMemoryTest, GivesItsMemoryUpOnlyWhenDestroyed) {
  TestHandler handler(socket_path_);
  const std::array shapes{GuestRegion{kSmall, kSmall}};
  std::optional memory = GuestMemory::create(shapes).value();
  ASSERT_TRUE(memory->hand_over(socket_path_, soon()));
  handler.wait_for_handoff();
  EXPECT_FALSE(handler.was_left());
  memory.reset();
  EXPECT_TRUE(handler.was_left());
}

TEST_F(GuestMemoryTest, IsNotGivenUpBeforeTheHandlerAnswersOrIsGone) {
  UniqueFd listener = listen_unix(socket_path_, std::nullopt).value();
  const Mapping mapping = Mapping::anonymous(kSmall).value();
  const std::array regions{MappedRegion{mapping.address(), kSmall, kSmall}};
  MissingMemory memory = MissingMemory::register_regions(regions).value();
  ASSERT_TRUE(memory.hand_over(socket_path_, soon()));

  EXPECT_EQ(code_of(memory.give_up(Deadline::after(50ms))), ErrorCode::kTimeout);
  listener.reset();
  EXPECT_TRUE(memory.give_up(soon()));
  EXPECT_EQ(own_userfaultfds().size(), 0u);
}

TEST_F(GuestMemoryTest, IsHandedOverToRootOrTheHandlersUserAlone) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root becomes another user";
  constexpr uid_t kStranger = 65'533;
  // The user who listens, and a socket that all may use.
  ASSERT_EQ(::chmod(directory_.c_str(), 0777), 0);
  ASSERT_EQ(::seteuid(kStranger), 0);
  const UniqueFd listener = listen_unix(socket_path_, std::nullopt).value();
  ASSERT_EQ(::seteuid(0), 0);
  const std::array shapes{GuestRegion{kSmall, kSmall}};
  auto memory = GuestMemory::create(shapes).value();

  EXPECT_EQ(code_of(memory.hand_over(socket_path_, soon())), ErrorCode::kPermission);
  EXPECT_EQ(code_of(GuestMemory::share(shapes, socket_path_, soon())), ErrorCode::kPermission);
  ::setenv("THAW_HANDLER_UID", "somebody", 1);
  EXPECT_EQ(code_of(memory.hand_over(socket_path_, soon())), ErrorCode::kInvalidArgument);
  ::setenv("THAW_HANDLER_UID", "65533", 1);
  EXPECT_TRUE(test::succeeded(memory.hand_over(socket_path_, soon())));
  ::unsetenv("THAW_HANDLER_UID");
}

TEST_F(GuestMemoryTest, PagesStayMissingWhenTheHandlerDies) {
  std::optional<TestHandler> handler(socket_path_);
  const std::array shapes{GuestRegion{{2 * kPageBytes}, kSmall}};
  auto memory = GuestMemory::create(shapes).value();
  ASSERT_TRUE(memory.hand_over(socket_path_, soon()));
  handler->wait_for_handoff();
  handler.reset();

  const auto kept = own_userfaultfds();
  ASSERT_EQ(kept.size(), 1u);
  auto reader = std::async(std::launch::async, [&] { return memory.region(0)[0]; });
  pollfd fault{kept[0].get(), POLLIN, 0};
  ASSERT_EQ(::poll(&fault, 1, 10'000), 1);
  // SAFETY: an address as a number, for the kernel.
  const HostAddress base{reinterpret_cast<std::uint64_t>(memory.region(0).data())};
  copy_pages(kept[0], base, Bytes(kPageBytes, std::byte{7}));
  EXPECT_EQ(reader.get(), std::byte{7});
}

TEST_F(GuestMemoryTest, IsKeptFromChildrenAndCoreDumps) {
  const std::array shapes{GuestRegion{kSmall, kSmall}};
  const auto memory = GuestMemory::create(shapes).value();
  const std::string flags = mapping_flags(memory.region(0).data());
  EXPECT_NE(flags.find(" dc "), std::string::npos) << flags;  // not copied by fork
  EXPECT_NE(flags.find(" dd "), std::string::npos) << flags;  // not dumped
  EXPECT_NE(flags.find(" um "), std::string::npos) << flags;  // registered as missing
}

TEST_F(GuestMemoryTest, MayBeHandedOverAfterAFailureButOnlyOnce) {
  const std::array shapes{GuestRegion{{2 * kPageBytes}, kSmall}};
  auto memory = GuestMemory::create(shapes).value();
  EXPECT_EQ(memory.hand_over(socket_path_, soon()).error().code(), ErrorCode::kNotFound);
  listen_unix(socket_path_, std::nullopt).value().reset();  // leaves a socket nobody listens on
  EXPECT_EQ(memory.hand_over(socket_path_, soon()).error().code(), ErrorCode::kUnavailable);

  TestHandler handler(socket_path_);
  ASSERT_TRUE(memory.hand_over(socket_path_, soon()));
  EXPECT_EQ(memory.region(0)[kPageBytes], image_byte({kPageBytes}));
  EXPECT_EQ(memory.hand_over(socket_path_, soon()).error().code(), ErrorCode::kAlreadyExists);
}

TEST_F(GuestMemoryTest, RefusesSocketPathsThatCannotBe) {
  const std::array shapes{GuestRegion{kSmall, kSmall}};
  auto memory = GuestMemory::create(shapes).value();
  for (const std::string& path : {std::string(108, 'x'), std::string()}) {
    EXPECT_EQ(memory.hand_over(path, soon()).error().code(), ErrorCode::kInvalidArgument);
  }
}

TEST_F(GuestMemoryTest, RefusesShapesByName) {
  struct Case {
    std::vector<GuestRegion> shapes;
    ErrorCode code;
  };
  const ByteCount half_image{bytes_of(PageCount{limits::kMaxImagePages / 2})};
  const std::vector<Case> cases{
      {{}, ErrorCode::kInvalidArgument},
      {{{{0}, kSmall}}, ErrorCode::kInvalidArgument},
      {{{kSmall, {0}}}, ErrorCode::kInvalidArgument},
      {{{{1u << 20}, {65536}}}, ErrorCode::kInvalidArgument},
      {{{kSmall, kSmall}, {{kPageBytes + 1}, kSmall}}, ErrorCode::kRegionUnaligned},
      {{{{kHugePageBytes + kPageBytes}, kHuge}}, ErrorCode::kRegionUnaligned},
      {{limits::kMaxRegions + 1, {kSmall, kSmall}}, ErrorCode::kTooLarge},
      {{{half_image, kSmall}, {half_image, kSmall}, {kSmall, kSmall}}, ErrorCode::kTooLarge},
      {{{kSmall, kSmall}, {{~std::uint64_t{0} - 4095}, kSmall}}, ErrorCode::kTooLarge},
  };
  for (const Case& refused : cases) {
    const auto memory = GuestMemory::create(refused.shapes);
    ASSERT_FALSE(memory);
    EXPECT_EQ(memory.error().code(), refused.code) << memory.error().message();
  }
}

TEST_F(GuestMemoryTest, UnalignedMappedMemoryIsRefused) {
  const Mapping mapping = Mapping::anonymous({2 * kPageBytes}).value();
  const std::array regions{MappedRegion{mapping.address() + ByteCount{8}, kSmall, kSmall}};
  EXPECT_EQ(MissingMemory::register_regions(regions).error().code(), ErrorCode::kRegionUnaligned);
}

/// A peer that sends a greeting and a descriptor to whoever connects, and closes if told to.
std::jthread greet(const std::string& path, const std::string& greeting, UniqueFd file) {
  auto listener = std::make_shared<UniqueFd>(listen_unix(path, std::nullopt).value());
  return std::jthread([listener, greeting, file = std::make_shared<UniqueFd>(std::move(file))] {
    const UniqueFd socket = accept_connection(*listener, soon()).value();
    const std::array descriptors{file->get()};
    CHECK(send_with_descriptors(socket, as_bytes(greeting), descriptors, soon()).has_value());
  });
}

TEST_F(GuestMemoryTest, WhatIsNoHostImageIsRefusedByName) {
  const std::array regions{GuestRegion{kSmall, kSmall}};
  const auto share = [&](std::string greeting, UniqueFd file) {
    const std::jthread peer = greet(socket_path_, greeting, std::move(file));
    return code_of(GuestMemory::share(regions, socket_path_, soon()));
  };
  const auto sealed = [](ByteCount size) {
    const UniqueFd file = create_memory_file("test", size).value();
    return seal_memory_file(file).value();
  };
  const std::string greeting(kHostImageGreeting);
  EXPECT_EQ(share("thaw image 2\n", sealed(kSmall)), ErrorCode::kProtocol);
  EXPECT_EQ(share(greeting, create_memory_file("open", kSmall).value()), ErrorCode::kProtocol);
  EXPECT_EQ(share(greeting, create_event_fd().value()), ErrorCode::kProtocol);
  EXPECT_EQ(share(greeting.substr(0, 5), sealed(kSmall)), ErrorCode::kUnavailable);
  EXPECT_EQ(share(greeting, sealed({2 * kPageBytes})), ErrorCode::kRegionMismatch);
}

TEST_F(GuestMemoryTest, SessionThatIsNotSharedGivesNoImage) {
  const TestHandler handler(socket_path_);
  const std::array regions{GuestRegion{kSmall, kSmall}};
  EXPECT_EQ(code_of(GuestMemory::share(regions, socket_path_, Deadline::after(50ms))),
            ErrorCode::kTimeout);
}

TEST_F(GuestMemoryTest, LeaksNoDescriptor) {
  const auto before = open_descriptors();
  {
    TestHandler handler(socket_path_);
    const std::array shapes{GuestRegion{kSmall, kSmall}};
    auto memory = GuestMemory::create(shapes).value();
    ASSERT_FALSE(memory.hand_over(socket_path_ + "2", soon()));
    ASSERT_TRUE(memory.hand_over(socket_path_, soon()));
    handler.wait_for_handoff();
  }
  EXPECT_EQ(open_descriptors(), before);
}

class LibraryTest : public VmmClientTest {};

TEST_F(LibraryTest, ProgramInCReadsServedMemory) {
  TestHandler handler(socket_path_);
  EXPECT_EQ(restore_in_c(socket_path_.c_str(), 16 * kPageBytes, 5 * kPageBytes),
            std::to_integer<int>(image_byte({5 * kPageBytes})));
}

TEST_F(LibraryTest, FailureHasNameAndText) {
  EXPECT_EQ(restore_in_c(socket_path_.c_str(), kPageBytes, 0), -1);
  EXPECT_STREQ(thaw_last_error_name(), "not_found");
  EXPECT_NE(std::string(thaw_last_error_text()).find(socket_path_), std::string::npos);
  std::thread([] { EXPECT_STREQ(thaw_last_error_name(), ""); }).join();
  EXPECT_EQ(restore_in_c(socket_path_.c_str(), kPageBytes + 1, 0), -1);
  EXPECT_STREQ(thaw_last_error_name(), "region_unaligned");
}

TEST_F(LibraryTest, NullPointersAreRefused) {
  const thaw_region region{.size = kPageBytes, .page_size = kPageBytes};
  thaw_memory* memory = nullptr;
  EXPECT_EQ(thaw_memory_restore(&region, 1, nullptr, &memory), -1);
  EXPECT_EQ(thaw_memory_restore(nullptr, 1, "x", &memory), -1);
  EXPECT_EQ(thaw_memory_restore(&region, 1, "x", nullptr), -1);
  EXPECT_EQ(thaw_memory_restore(nullptr, 0, "x", &memory), -1);
  EXPECT_STREQ(thaw_last_error_name(), "invalid_argument");
  EXPECT_EQ(thaw_memory_address(nullptr, 0), nullptr);
  thaw_memory_close(nullptr);
}

TEST_F(LibraryTest, TellsWhatHasChanged) {
  TestHandler handler(socket_path_);
  constexpr std::size_t kPages = 20;
  const thaw_region region{.size = kPages * kPageBytes, .page_size = kPageBytes};
  thaw_memory* memory = nullptr;
  ASSERT_EQ(thaw_memory_restore_tracked(&region, 1, socket_path_.c_str(), &memory), 0)
      << thaw_last_error_text();
  auto* const bytes = static_cast<volatile unsigned char*>(thaw_memory_address(memory, 0));
  for (std::size_t page = 0; page < kPages; page += 2) EXPECT_GE(bytes[page * kPageBytes], 0);
  bytes[4 * kPageBytes] = 1;   // was read
  bytes[17 * kPageBytes] = 1;  // is missing
  ASSERT_EQ(thaw_memory_discard(memory, 0, 8 * kPageBytes, 2 * kPageBytes), 0);

  std::array<std::uint8_t, 3> bitmap{0xff, 0xff, 0xff};
  EXPECT_EQ(thaw_memory_changed(memory, 0, bitmap.data(), bitmap.size()), 0)
      << thaw_last_error_text();

  EXPECT_EQ(bitmap, (std::array<std::uint8_t, 3>{1 << 4, 1 << 0 | 1 << 1, 1 << 1}));
  EXPECT_EQ(thaw_memory_changed(memory, 1, bitmap.data(), bitmap.size()), -1);
  EXPECT_EQ(thaw_memory_changed(memory, 0, bitmap.data(), 2), -1);
  EXPECT_EQ(thaw_memory_changed(memory, 0, nullptr, 3), -1);
  EXPECT_EQ(thaw_memory_changed(nullptr, 0, bitmap.data(), 3), -1);
  EXPECT_STREQ(thaw_last_error_name(), "invalid_argument");
  thaw_memory_close(memory);
}

TEST_F(LibraryTest, ChangesOfUntrackedMemoryAreNotKnown) {
  TestHandler handler(socket_path_);
  const thaw_region region{.size = kPageBytes, .page_size = kPageBytes};
  thaw_memory* memory = nullptr;
  ASSERT_EQ(thaw_memory_restore(&region, 1, socket_path_.c_str(), &memory), 0);
  std::uint8_t bitmap = 0;
  EXPECT_EQ(thaw_memory_changed(memory, 0, &bitmap, 1), -1);
  EXPECT_STREQ(thaw_last_error_name(), "unsupported");
  thaw_memory_close(memory);
}

/// Programs run with thaw-qemu.so. They start from a shell that has it loaded, too.
class QemuPreloadTest : public VmmClientTest {
 protected:
  struct Finished {
    int exit_code;
    std::string output;
  };

  void create_memory_file(const std::string& path) {
    std::ofstream(path).flush();
    std::filesystem::resize_file(path, kFileBytes);
  }
  std::string environment(const std::string& memory_path) const {
    return fmt::format("THAW_QEMU_MEMORY={} THAW_QEMU_SOCKET={}", memory_path, socket_path_);
  }
  Finished run(const std::string& variables, const std::string& command) {
    const std::string line = fmt::format("LD_PRELOAD={} {} sh -c 'true; {}; exit $?' 2>&1",
                                         THAW_QEMU_OBJECT, variables, command);
    std::FILE* const pipe = ::popen(line.c_str(), "re");
    CHECK(pipe != nullptr);
    std::string output;
    for (int c; (c = std::fgetc(pipe)) != EOF;) output.push_back(static_cast<char>(c));
    const int status = ::pclose(pipe);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, output};
  }
  Finished map_file(const std::string& variables, const std::string& mode) {
    return run(variables,
               fmt::format("{} {} {} {}", MAP_FILE_PROGRAM, mode, memory_path_, 7 * kPageBytes));
  }
  void expect_refused(const Finished& finished, const std::string& reason) {
    EXPECT_EQ(finished.exit_code, 1);
    EXPECT_TRUE(finished.output.starts_with("thaw-qemu: ")) << finished.output;
    EXPECT_NE(finished.output.find(reason), std::string::npos) << finished.output;
    EXPECT_EQ(std::ranges::count(finished.output, '\n'), 1) << finished.output;
  }
};

TEST_F(QemuPreloadTest, SharedAndPrivateMappingsAreServed) {
  for (const char* mode : {"shared", "private"}) {
    std::filesystem::remove(memory_path_);
    create_memory_file(memory_path_);
    TestHandler handler(socket_path_);
    const Finished finished = map_file(environment(memory_path_), mode);
    EXPECT_EQ(finished.exit_code, 0);
    ASSERT_EQ(finished.output, "byte 8\n");
    const auto regions = handler.wait_for_handoff();
    ASSERT_EQ(regions.size(), 1u);
    EXPECT_EQ(regions[0].size.value, kFileBytes);
    EXPECT_EQ(regions[0].page_size, kSmall);
  }
}

TEST_F(QemuPreloadTest, OtherProgramsAndFilesPassThrough) {
  create_memory_file(memory_path_);
  EXPECT_EQ(map_file("", "twice").output, "byte 0\n");
  create_memory_file(directory_ + "/other");
  EXPECT_EQ(map_file(environment(directory_ + "/other"), "twice").output, "byte 0\n");
  EXPECT_EQ(map_file(environment(directory_ + "/none"), "half").output, "byte 0\n");
}

TEST_F(QemuPreloadTest, TerminatesWhenNobodyServes) {
  create_memory_file(memory_path_);
  expect_refused(map_file(environment(memory_path_), "shared"), "not_found: connect to ");
}

TEST_F(QemuPreloadTest, TerminatesWhenAVariableIsMissing) {
  create_memory_file(memory_path_);
  expect_refused(map_file("THAW_QEMU_MEMORY=" + memory_path_, "shared"),
                 "THAW_QEMU_SOCKET is not set");
  expect_refused(map_file("THAW_QEMU_SOCKET=" + socket_path_, "shared"),
                 "THAW_QEMU_MEMORY is not set");
}

TEST_F(QemuPreloadTest, TerminatesAtMappingsItCannotServe) {
  create_memory_file(memory_path_);
  const TestHandler handler(socket_path_);
  expect_refused(map_file(environment(memory_path_), "half"), "are mapped");
  expect_refused(map_file(environment(memory_path_), "twice"), "a second time");
}

TEST_F(QemuPreloadTest, TerminatesWhenASharedFileHoldsContent) {
  create_memory_file(memory_path_);
  std::fstream(memory_path_, std::ios::in | std::ios::out).put('x');
  expect_refused(map_file(environment(memory_path_), "shared"), "holds content already");
}

TEST_F(QemuPreloadTest, TerminatesWhenTheFileSystemHasNoUserfaultfd) {
  memory_path_ = testing::TempDir() + "/thaw-vmm-client-memory";
  struct statfs system{};
  ASSERT_EQ(::statfs(testing::TempDir().c_str(), &system), 0);
  if (system.f_type == TMPFS_MAGIC) GTEST_SKIP() << testing::TempDir() << " is on tmpfs";
  create_memory_file(memory_path_);
  expect_refused(map_file(environment(memory_path_), "shared"), "neither on tmpfs");
  std::filesystem::remove(memory_path_);
}

TEST_F(QemuPreloadTest, TerminatesAtVariablesThatItDoesNotKnow) {
  create_memory_file(memory_path_);
  expect_refused(map_file("THAW_QEMU_MEMROY=" + memory_path_, "shared"),
                 "THAW_QEMU_MEMROY is none");
  expect_refused(map_file(environment(memory_path_) + " THAW_QEMU_SHARED=yes", "shared"),
                 "THAW_QEMU_SHARED is yes");
}

/// A real QEMU with its BIOS alone.
class QemuTest : public QemuPreloadTest {
 protected:
  void SetUp() override {
    if (::system("command -v qemu-system-x86_64 >/dev/null") != 0) GTEST_SKIP() << "needs QEMU";
  }
  /// Its first monitor command shows a byte of memory.
  Finished qemu(const std::string& variables, const std::string& arguments,
                const std::string& accelerator = "tcg") {
    return run(variables, fmt::format("printf \"xp /1ub {}\\nquit\\n\" | qemu-system-x86_64 "
                                      "-display none -monitor stdio -m 64 -accel {} {}",
                                      4097 * kPageBytes, accelerator, arguments));
  }
  static std::string object(const std::string& backend) {
    return "-S -machine pc,memory-backend=ram -object " + backend + ",id=ram,size=64M";
  }
  static std::string file_object(const std::string& path) {
    return object("memory-backend-file,share=on,mem-path=" + path);
  }
  void expect_served(const Finished& finished) {
    EXPECT_EQ(finished.exit_code, 0) << finished.output;
    const std::string shown = fmt::format("{:016x}: {:3}", 4097 * kPageBytes,
                                          std::to_integer<int>(image_byte({4097 * kPageBytes})));
    EXPECT_NE(finished.output.find(shown), std::string::npos) << finished.output;
  }
  void expect_ended(const Finished& finished, const std::string& reason) {
    EXPECT_EQ(finished.exit_code, 1) << finished.output;
    EXPECT_NE(finished.output.find(reason), std::string::npos) << finished.output;
  }
};

TEST_F(QemuTest, SeesServedMemory) {
  TestHandler handler(socket_path_);
  expect_served(qemu(environment(memory_path_), file_object(memory_path_)));
}

TEST_F(QemuTest, FileIsKnownHoweverItIsNamed) {
  create_memory_file(memory_path_);
  std::filesystem::resize_file(memory_path_, 64u << 20);
  std::filesystem::create_symlink(memory_path_, directory_ + "/link");
  TestHandler handler(socket_path_);
  expect_served(qemu(environment(directory_ + "//./link"), file_object(memory_path_)));
}

TEST_F(QemuTest, SeesServedMemoryInAMemfd) {
  for (const std::string& variable : {std::string("memfd"), memory_path_}) {
    for (const std::string share : {"on", "off"}) {
      TestHandler handler(socket_path_);
      expect_served(qemu(environment(variable), object("memory-backend-memfd,share=" + share)));
    }
  }
}

TEST_F(QemuTest, LockedMemoryIsServed) {
  TestHandler handler(socket_path_);
  expect_served(
      qemu(environment(memory_path_), file_object(memory_path_) + " -overcommit mem-lock=on"));
}

TEST_F(QemuTest, GuestDoesNotRunOnMemoryThatWasNotHandedOver) {
  std::vector<std::string> accelerators{"tcg", "tcg,split-wx=on"};
  if (::access("/dev/kvm", R_OK | W_OK) == 0) accelerators.emplace_back("kvm");
  const std::string misspelt = environment(memory_path_ + "-misspelt");
  for (const std::string& accelerator : accelerators) {
    expect_ended(qemu(misspelt, file_object(memory_path_), accelerator), "was not handed over");
    expect_ended(qemu(misspelt, "", accelerator), "was not handed over");
    expect_ended(qemu("", file_object(memory_path_), accelerator), "are not set");
    expect_ended(qemu(environment("memfd"), object("memory-backend-ram"), accelerator),
                 "was not handed over");
  }
}

TEST_F(QemuTest, DaemonSaysWhyItDoesNotBegin) {
  const std::string arguments = "-daemonize -display none -accel tcg -m 64";
  expect_ended(run(environment(memory_path_), "qemu-system-x86_64 " + arguments),
               "was not handed over");
}

TEST_F(QemuTest, SecondObjectOfSharedMemoryIsRefused) {
  const std::string nodes = fmt::format(
      "-S -m 128 -object memory-backend-file,id=a,size=64M,share=on,mem-path={} "
      "-numa node,memdev=a -numa node,memdev=b -object ",
      memory_path_);
  const std::array others{
      std::pair{std::string("memory-backend-file,id=b,size=64M,share=on,mem-path=") + directory_ +
                    "/second",
                "one memory object"},
      std::pair{std::string("memory-backend-memfd,id=b,size=64M"), "second memory object"},
      std::pair{std::string("memory-backend-ram,id=b,size=64M,share=on"), "one memory object"},
  };
  for (const auto& [other, reason] : others) {
    std::filesystem::remove(memory_path_);
    TestHandler handler(socket_path_);
    expect_ended(qemu(environment(memory_path_), nodes + other), reason);
  }
}

TEST_F(QemuTest, InvocationsWithoutAGuestPassThrough) {
  for (const std::string argument : {"-version", "-help", "-machine help"}) {
    const Finished finished =
        run(environment(memory_path_), "qemu-system-x86_64 " + argument + " >/dev/null");
    EXPECT_EQ(finished.exit_code, 0) << argument << ": " << finished.output;
    EXPECT_EQ(finished.output, "") << argument;
  }
}

}  // namespace
}  // namespace thaw
