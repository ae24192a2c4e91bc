#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>
#include <thread>
#include <vector>

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/file.h"
#include "base/histogram.h"
#include "base/host.h"
#include "base/mapping.h"
#include "base/partial_file.h"
#include "base/types.h"
#include "tests/support/test_support.h"

namespace thaw {
namespace {

using test::code_of;
using test::ScratchDirectory;
using test::succeeded;

constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();

Bytes bytes_from(std::initializer_list<int> values) {
  Bytes bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

TEST(Varint, RoundTripsAtEveryLength) {
  std::vector<std::uint64_t> values{0, 1, 127, 128, 300, kMost, kMost - 1};
  for (unsigned shift = 0; shift < 64; ++shift) values.push_back(std::uint64_t{1} << shift);
  Bytes bytes;
  for (const std::uint64_t value : values) append_varint(bytes, value);
  VarintReader reader(bytes);
  for (const std::uint64_t value : values) EXPECT_EQ(reader.next(), value);
  EXPECT_TRUE(reader.ok());
  EXPECT_TRUE(reader.at_end());
}

TEST(Varint, SignedRoundTripsAndStaysShort) {
  const std::int64_t values[] = {0,
                                 -1,
                                 1,
                                 -64,
                                 63,
                                 std::numeric_limits<std::int64_t>::min(),
                                 std::numeric_limits<std::int64_t>::max()};
  Bytes bytes;
  for (const std::int64_t value : values) append_signed_varint(bytes, value);
  VarintReader reader(bytes);
  for (const std::int64_t value : values) EXPECT_EQ(reader.next_signed(), value);
  EXPECT_TRUE(reader.ok());

  Bytes small;
  append_signed_varint(small, -64);
  EXPECT_EQ(small.size(), 1u);
}

TEST(Varint, RefusesEndsAndOverlongForms) {
  for (const Bytes& bytes :
       {Bytes{}, bytes_from({0x80}),
        bytes_from({0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02}),
        bytes_from({0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x80, 0x00})}) {
    VarintReader reader(bytes);
    EXPECT_EQ(reader.next(), 0u);
    EXPECT_FALSE(reader.ok());
    EXPECT_EQ(reader.next(), 0u) << "stays failed";
    EXPECT_FALSE(reader.ok());
  }
}

TEST(Bytes, LittleEndianAndHex) {
  Bytes bytes(4);
  store_le(bytes.data(), std::uint32_t{0x0a0b0c0d});
  EXPECT_EQ(to_hex(bytes), "0d0c0b0a");
  EXPECT_EQ(load_le<std::uint32_t>(bytes.data()), 0x0a0b0c0du);
  EXPECT_EQ(as_text(as_bytes("thaw")), "thaw");
}

TEST(ErrorCode, EveryNumberRoundTripsAndEveryNameIsItsOwn) {
  std::set<std::string_view> names;
  unsigned codes = 0;
  for (unsigned number = 0; number < 1000; ++number) {
    const auto code = static_cast<ErrorCode>(number);
    if (error_name(code) == "unknown") {
      EXPECT_EQ(error_code_from_number(static_cast<std::uint16_t>(number)), ErrorCode::kIo);
      continue;
    }
    ++codes;
    names.insert(error_name(code));
    EXPECT_EQ(error_code_from_number(static_cast<std::uint16_t>(number)), code);
  }
  EXPECT_EQ(codes, 36u);
  EXPECT_EQ(names.size(), codes);
}

TEST(Error, MessageNamesCodeContextAndErrno) {
  EXPECT_EQ(Error(ErrorCode::kTruncated, "3 of 4").message(), "truncated: 3 of 4");
  EXPECT_EQ(Error(ErrorCode::kNotFound, "open x", ENOENT).message(),
            "not_found: open x (No such file or directory)");
}

TEST(Error, ErrnoPicksTheCode) {
  const std::pair<int, ErrorCode> cases[] = {{ENOENT, ErrorCode::kNotFound},
                                             {EEXIST, ErrorCode::kAlreadyExists},
                                             {ENOSPC, ErrorCode::kNoSpace},
                                             {EDQUOT, ErrorCode::kNoSpace},
                                             {EACCES, ErrorCode::kPermission},
                                             {EROFS, ErrorCode::kReadOnly},
                                             {ENOMEM, ErrorCode::kNoMemory},
                                             {EMFILE, ErrorCode::kNoDescriptors},
                                             {ENFILE, ErrorCode::kNoDescriptors},
                                             {ETIMEDOUT, ErrorCode::kTimeout},
                                             {ECONNRESET, ErrorCode::kUnavailable},
                                             {EINVAL, ErrorCode::kInvalidArgument},
                                             {EIO, ErrorCode::kIo}};
  for (const auto& [number, code] : cases) {
    EXPECT_EQ(fail_errno("x", number).error().code(), code) << number;
    EXPECT_EQ(fail_errno("x", number).error().error_number(), number);
  }
}

TEST(Types, WithinNeverOverflows) {
  EXPECT_TRUE(within(0, 0, 0));
  EXPECT_TRUE(within(3, 5, 8));
  EXPECT_FALSE(within(3, 6, 8));
  EXPECT_FALSE(within(9, 0, 8));
  EXPECT_FALSE(within(kMost, kMost, 8));
  EXPECT_FALSE(within(1, kMost, kMost));
  EXPECT_TRUE(within(0, kMost, kMost));
}

TEST(Types, PagesAndBytesConvert) {
  EXPECT_EQ(pages_for({0}).value, 0u);
  EXPECT_EQ(pages_for({1}).value, 1u);
  EXPECT_EQ(pages_for({4096}).value, 1u);
  EXPECT_EQ(pages_for({4097}).value, 2u);
  EXPECT_EQ(pages_for({kMost}).value, (kMost >> 12) + 1);
  EXPECT_EQ(page_of({8191}), PageIndex{1});
  EXPECT_EQ(offset_of({2}), ImageOffset{8192});
  EXPECT_EQ(PageIndex{7} - PageIndex{3}, PageCount{4});
}

TEST(Deadline, PassesAndNeverGoesNegative) {
  const Deadline past = Deadline::after(Nanoseconds(-1));
  EXPECT_TRUE(past.passed());
  EXPECT_EQ(past.milliseconds_left(), 0);
  const Deadline future = Deadline::after(std::chrono::hours(1));
  EXPECT_FALSE(future.passed());
  EXPECT_GT(future.milliseconds_left(), 3'000'000);
}

TEST(LatencyHistogram, QuantilesAreWithinASixteenth) {
  auto generator = test::seeded_generator();
  LatencyHistogram histogram;
  std::vector<std::int64_t> values;
  for (int i = 0; i < 10'000; ++i) {
    const auto value = static_cast<std::int64_t>(generator() >> (1 + test::pick(generator, 62)));
    values.push_back(value);
    histogram.record(Nanoseconds(value));
  }
  std::ranges::sort(values);
  EXPECT_EQ(histogram.count(), values.size());
  EXPECT_EQ(histogram.max().count(), values.back());
  for (const double q : {0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const auto rank = static_cast<std::size_t>(std::ceil(q * 10'000.0)) - 1;
    const auto exact = static_cast<double>(values[rank]);
    const auto got = static_cast<double>(histogram.quantile(q).count());
    EXPECT_GE(got, exact) << q;
    EXPECT_LE(got, exact * (1 + 1.0 / 16) + 1) << q;
  }
}

TEST(LatencyHistogram, EmptyNegativeAndLargest) {
  LatencyHistogram histogram;
  EXPECT_EQ(histogram.quantile(0.5).count(), 0);
  histogram.record(Nanoseconds(-5));
  EXPECT_EQ(histogram.quantile(1).count(), 0);
  histogram.record(Nanoseconds::max());
  EXPECT_EQ(histogram.quantile(1), Nanoseconds::max());
}

TEST(File, ReadsAndWritesAtOffsets) {
  const ScratchDirectory scratch;
  const auto file = PartialFile::create(scratch.path("f"));
  ASSERT_TRUE(succeeded(file));
  ASSERT_TRUE(succeeded(write_at(file->fd(), as_bytes("hello"), 10)));
  std::array<std::byte, 5> back;
  ASSERT_TRUE(succeeded(read_at(file->fd(), back, 10)));
  EXPECT_EQ(as_text(back), "hello");
  EXPECT_EQ(code_of(read_at(file->fd(), back, 11)), ErrorCode::kTruncated);
  EXPECT_EQ(file_size(file->fd()).value(), ByteCount{15});
  EXPECT_EQ(code_of(open_for_reading(scratch.path("none"))), ErrorCode::kNotFound);
}

TEST(File, NextDataSkipsHoles) {
  const ScratchDirectory scratch;
  const auto file = PartialFile::create(scratch.path("f"));
  ASSERT_TRUE(succeeded(file));
  constexpr std::uint64_t kMegabyte = 1 << 20;
  ASSERT_TRUE(succeeded(resize_file(file->fd(), {4 * kMegabyte})));
  ASSERT_TRUE(succeeded(write_at(file->fd(), as_bytes("x"), 2 * kMegabyte)));
  const auto first = next_data(file->fd(), 0);
  ASSERT_TRUE(succeeded(first));
  ASSERT_TRUE(first->has_value());
  if ((*first)->begin == 0) GTEST_SKIP() << "this file system has no holes";
  EXPECT_EQ((*first)->begin, 2 * kMegabyte);
  EXPECT_GT((*first)->end, 2 * kMegabyte);
  EXPECT_LE((*first)->end, 3 * kMegabyte);
  EXPECT_FALSE(next_data(file->fd(), 3 * kMegabyte)->has_value());
}

TEST(File, TextFilesHaveABound) {
  const ScratchDirectory scratch;
  std::ofstream(scratch.path("t")) << "12345";
  EXPECT_EQ(read_text_file(scratch.path("t"), 5).value(), "12345");
  EXPECT_EQ(code_of(read_text_file(scratch.path("t"), 4)), ErrorCode::kTooLarge);
  EXPECT_FALSE(read_text_file("/proc/self/status", 1 << 16).value().empty());
}

/// In nanoseconds; 0 before Linux 6.12.
std::uint64_t turn_of_this_thread() {
  std::array<std::uint64_t, 6> attributes{};  // struct sched_attr
  constexpr std::size_t kRuntime = 3;
  EXPECT_EQ(::syscall(SYS_sched_getattr, 0, attributes.data(), sizeof(attributes), 0), 0);
  return attributes[kRuntime];
}

TEST(Cpu, PrecedenceIsOfTheCallingThreadAloneAndOutlastsTheBackground) {
  const int ours = ::getpriority(PRIO_PROCESS, 0);
  std::jthread([] {
    take_precedence();
    EXPECT_EQ(::getpriority(PRIO_PROCESS, 0), -20);
    ASSERT_TRUE(succeeded(set_scheduling_class(0, SchedulingClass::kBackground)));
    ASSERT_TRUE(succeeded(set_scheduling_class(0, SchedulingClass::kNormal)));
    EXPECT_EQ(::getpriority(PRIO_PROCESS, 0), -20);
  }).join();
  EXPECT_EQ(::getpriority(PRIO_PROCESS, 0), ours);
}

TEST(Cpu, LongTurnsChangeNoPriority) {
  std::jthread([] {
    ASSERT_EQ(::setpriority(PRIO_PROCESS, 0, 3), 0);
    const auto before = turn_of_this_thread();
    take_long_turns();
    EXPECT_EQ(::sched_getscheduler(0), SCHED_BATCH);
    EXPECT_EQ(::getpriority(PRIO_PROCESS, 0), 3);
    EXPECT_TRUE(before == 0 || turn_of_this_thread() > before);
  }).join();
}

TEST(Mapping, MovesAndStartsAsZeros) {
  auto mapped = Mapping::anonymous({3 * kPageBytes});
  ASSERT_TRUE(succeeded(mapped));
  const Mapping mapping = std::move(*mapped);
  EXPECT_EQ(mapped->size(), ByteCount{0});
  EXPECT_EQ(mapping.size(), ByteCount{3 * kPageBytes});
  EXPECT_EQ(mapping.address().value % kPageBytes, 0u);
  EXPECT_EQ(mapping.bytes().back(), std::byte{0});
  EXPECT_EQ(code_of(Mapping::anonymous({0})), ErrorCode::kInvalidArgument);
}

TEST(Mapping, OfAFileKeepsWhatIsWrittenToItself) {
  const test::ScratchDirectory directory;
  const std::string path = directory.path("file");
  std::ofstream(path) << std::string(2 * kPageBytes, 'a');
  const UniqueFd file = open_for_reading(path).value();

  const Mapping mapping = Mapping::private_file(file, {2 * kPageBytes}).value();
  EXPECT_EQ(mapping.bytes()[kPageBytes], std::byte{'a'});
  mapping.bytes()[0] = std::byte{'b'};

  EXPECT_EQ(read_text_file(path, 2 * kPageBytes).value(), std::string(2 * kPageBytes, 'a'));
  EXPECT_EQ(code_of(Mapping::private_file(file, {3 * kPageBytes})), ErrorCode::kTruncated);
}

}  // namespace
}  // namespace thaw
