// Files that a user names: what is replaced, what is written in place, and what is read.

#include <array>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/input_file.h"
#include "base/output_file.h"
#include "base/partial_file.h"
#include "base/place.h"
#include "base/private_files.h"
#include "base/unfinished_name.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

class NamedFilesTest : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.path(name); }
  std::string text(const std::string& name) const {
    return read_text_file(path(name), 1 << 20).value_or("(none)");
  }
  void write(const std::string& name, const std::string& content) const {
    std::ofstream(path(name)) << content;
  }
  std::size_t entries() const {
    const std::filesystem::directory_iterator all(path(""));
    return static_cast<std::size_t>(std::distance(begin(all), end(all)));
  }
  static mode_t mode_of(const std::string& name) {
    struct stat status{};
    EXPECT_EQ(::stat(name.c_str(), &status), 0);
    return status.st_mode & 07777;
  }

  ScratchDirectory directory_;
};

class PlaceTest : public NamedFilesTest {
 protected:
  static constexpr uid_t kStranger = 65'533;

  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "only root gives directories to others";
    for (const char* const name : {"own", "theirs", "theirs/in", "theirs/ours"}) {
      std::filesystem::create_directory(path(name));
    }
    for (const char* const name : {"theirs", "theirs/in"}) {
      ASSERT_EQ(::chown(path(name).c_str(), kStranger, kStranger), 0);
    }
  }
  std::optional<ErrorCode> code(const std::string& name) const {
    return code_of(find_place(path(name)));
  }
  void link(const std::string& target, const std::string& name) const {
    std::filesystem::create_symlink(target, path(name));
  }
};

TEST_F(PlaceTest, LinksAreFollowedWhereOthersCannotMakeThem) {
  link("own", "link");
  link("../link", "own/back");
  link("own", "foreign");
  ASSERT_EQ(::lchown(path("foreign").c_str(), kStranger, kStranger), 0);
  link(path("round"), "round");

  EXPECT_TRUE(
      same_place(find_place(path("own/back/s")).value(), find_place(path("own/s")).value()));
  EXPECT_TRUE(same_place(find_place(path("link/../s")).value(), find_place(path("s")).value()));
  EXPECT_EQ(code("foreign/s"), ErrorCode::kPermission);
  EXPECT_EQ(code("round/s"), ErrorCode::kIo);
}

TEST_F(PlaceTest, DirectoryOfAnotherUserLeadsNowhereElse) {
  link(path("own"), "theirs/link");
  std::filesystem::create_directory(path("shared"));
  ASSERT_EQ(::chmod(path("shared").c_str(), 0777), 0);
  link(path("own"), "shared/link");
  std::filesystem::rename(path("theirs"), path("shared/theirs"));

  EXPECT_TRUE(succeeded(find_place(path("shared/s"))));
  EXPECT_TRUE(succeeded(find_place(path("shared/theirs/in/s"))));
  EXPECT_TRUE(succeeded(find_place(path("shared/theirs/in/../../../own/s"))));
  EXPECT_EQ(code("shared/link/s"), ErrorCode::kPermission);
  EXPECT_EQ(code("shared/theirs/link/s"), ErrorCode::kPermission);
  // The stranger may have moved root's directory there.
  EXPECT_EQ(code("shared/theirs/ours/s"), ErrorCode::kPermission);
}

TEST_F(PlaceTest, IsKeptThroughRenamesAndRemovesItsOwnFileAlone) {
  const Place place = find_place(path("theirs/in/s")).value();
  write("theirs/in/s", "made");
  const UniqueFd file = open_entry(place).value();
  std::filesystem::rename(path("theirs/in"), path("theirs/moved"));
  std::filesystem::create_directory(path("theirs/in"));
  write("theirs/in/s", "victim");

  EXPECT_TRUE(succeeded(remove_entry(place.directory, place.name, file)));
  EXPECT_FALSE(std::filesystem::exists(path("theirs/moved/s")));
  write("theirs/moved/s", "later");
  EXPECT_TRUE(succeeded(remove_entry(place.directory, place.name, file)));

  EXPECT_EQ(text("theirs/moved/s"), "later");
  EXPECT_EQ(text("theirs/in/s"), "victim");
}

TEST_F(PlaceTest, FileSystemsAreKnownNotToWaitOrRefused) {
  EXPECT_TRUE(succeeded(check_never_waits(find_place(path("file"))->directory, "file")));
  const auto refused = check_never_waits(find_place("/proc/self/file")->directory, "file");
  EXPECT_EQ(code_of(refused), ErrorCode::kUnsupported);
}

TEST_F(PlaceTest, NamesADirectoryOrNothingIsRefused) {
  EXPECT_EQ(code("own/"), ErrorCode::kAlreadyExists);
  EXPECT_EQ(code("own/.."), ErrorCode::kAlreadyExists);
  EXPECT_EQ(code("none/s"), ErrorCode::kNotFound);
  EXPECT_EQ(code_of(find_place("")), ErrorCode::kInvalidArgument);
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_FALSE(find_place(path("pipe/s")).has_value());
}

using PrivateFilesTest = NamedFilesTest;

TEST_F(PrivateFilesTest, MakesDirectoriesForItsUserAloneAndPublicOnesForAll) {
  ASSERT_TRUE(succeeded(make_private_directory(path("a/b/"))));
  EXPECT_EQ(mode_of(path("a")), 0700u);
  EXPECT_EQ(mode_of(path("a/b")), 0700u);
  ASSERT_TRUE(succeeded(make_private_directory(path("a/b"))));

  const mode_t before = ::umask(077);
  ASSERT_TRUE(succeeded(make_public_directory(path("run/thaw"))));
  ::umask(before);
  EXPECT_EQ(mode_of(path("run")), 0755u);
  EXPECT_EQ(mode_of(path("run/thaw")), 0755u);
  ASSERT_TRUE(succeeded(make_public_directory("")));
}

TEST_F(PrivateFilesTest, ClosesAnEmptyDirectoryAndRefusesOneWithSomethingInIt) {
  ASSERT_EQ(::mkdir(path("store").c_str(), 0755), 0);
  ASSERT_TRUE(succeeded(make_private_directory(path("store"))));
  EXPECT_EQ(mode_of(path("store")), 0700u);

  write("store/secret", "s");
  for (const mode_t mode : {0710u, 0701u, 0750u, 0704u, 0720u, 01777u}) {
    ASSERT_EQ(::chmod(path("store").c_str(), mode), 0);
    EXPECT_EQ(code_of(make_private_directory(path("store"))), ErrorCode::kPermission) << mode;
    EXPECT_EQ(mode_of(path("store")), mode) << "the operator decides";
  }
}

TEST_F(PrivateFilesTest, RefusesADirectoryOfAnotherUser) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to give a directory away";
  ASSERT_EQ(::mkdir(path("store").c_str(), 0700), 0);
  ASSERT_EQ(::chown(path("store").c_str(), 1234, 1234), 0);

  EXPECT_EQ(code_of(make_private_directory(path("store"))), ErrorCode::kPermission);
  EXPECT_EQ(code_of(check_private_directory(path("store"))), ErrorCode::kPermission);
}

TEST_F(PrivateFilesTest, TakesNoOrdersFromAFileThatOthersMayWrite) {
  write("policy", "all");
  for (const mode_t mode : {0600u, 0644u, 0400u}) {
    ASSERT_EQ(::chmod(path("policy").c_str(), mode), 0);
    EXPECT_EQ(read_trusted_file(path("policy"), 100).value_or("(none)"), "all") << mode;
  }
  for (const mode_t mode : {0664u, 0666u, 0602u}) {
    ASSERT_EQ(::chmod(path("policy").c_str(), mode), 0);
    EXPECT_EQ(code_of(read_trusted_file(path("policy"), 100)), ErrorCode::kPermission) << mode;
  }
  ASSERT_EQ(::chmod(path("policy").c_str(), 0644), 0);
  EXPECT_EQ(code_of(read_trusted_file(path("policy"), 2)), ErrorCode::kTooLarge);
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to give a file away";
  ASSERT_EQ(::chown(path("policy").c_str(), 1234, 1234), 0);
  EXPECT_EQ(code_of(read_trusted_file(path("policy"), 100)), ErrorCode::kPermission);
}

TEST_F(PrivateFilesTest, TakesNoOrdersThroughADirectoryThatOthersMayChange) {
  std::filesystem::create_directories(path("d/e"));
  write("d/e/policy", "all");
  std::filesystem::create_symlink("d/e/policy", path("link"));
  const auto code = [&](const std::string& name) {
    return code_of(read_trusted_file(path(name), 100));
  };
  for (const mode_t mode : {0700u, 0755u, 01777u, 01775u}) {
    ASSERT_EQ(::chmod(path("d").c_str(), mode), 0);
    EXPECT_EQ(code("d/e/policy"), std::nullopt) << mode;
    EXPECT_EQ(code("link"), std::nullopt) << mode;
  }
  for (const mode_t mode : {0775u, 0777u, 0702u}) {
    ASSERT_EQ(::chmod(path("d").c_str(), mode), 0);
    EXPECT_EQ(code("d/e/policy"), ErrorCode::kPermission) << mode;
    EXPECT_EQ(code("link"), ErrorCode::kPermission) << mode;
  }
  ASSERT_EQ(::chmod(path("d").c_str(), 0755), 0);
  // Where all users may make names, a second name of a file may be another user's work.
  ASSERT_EQ(::chmod(path("d/e").c_str(), 01777), 0);
  EXPECT_EQ(code("d/e/policy"), std::nullopt);
  std::filesystem::create_hard_link(path("d/e/policy"), path("d/e/second"));
  EXPECT_EQ(code("d/e/second"), ErrorCode::kPermission);
  std::filesystem::remove(path("d/e/second"));
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to give files away";
  std::filesystem::create_symlink("policy", path("d/e/theirs"));
  ASSERT_EQ(::lchown(path("d/e/theirs").c_str(), 1234, 1234), 0);
  EXPECT_EQ(code("d/e/theirs"), ErrorCode::kPermission);
  ASSERT_EQ(::chmod(path("d/e").c_str(), 0755), 0);
  ASSERT_EQ(::chown(path("d").c_str(), 1234, 1234), 0);
  EXPECT_EQ(code("d/e/policy"), ErrorCode::kPermission);
  EXPECT_EQ(code("link"), ErrorCode::kPermission);
  EXPECT_EQ(code("d/../link"), ErrorCode::kPermission);
}

TEST_F(PrivateFilesTest, FollowsTheLinksOfSecretsThatAreMounted) {
  // As Kubernetes mounts them.
  ASSERT_EQ(::chmod(path("").c_str(), 01777), 0);
  std::filesystem::create_directory(path("..now"));
  write("..now/tls.crt", "certificate");
  std::filesystem::create_symlink("..now", path("..data"));
  std::filesystem::create_symlink("..data/tls.crt", path("tls.crt"));

  EXPECT_EQ(read_trusted_file(path("tls.crt"), 100).value_or("(none)"), "certificate");
}

TEST_F(PrivateFilesTest, WhatIsNoFileIsRefusedAndNotWaitedFor) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  std::filesystem::create_directory(path("directory"));
  for (const char* const name : {"pipe", "directory"}) {
    EXPECT_EQ(code_of(read_trusted_file(path(name), 100)), ErrorCode::kInvalidArgument) << name;
    EXPECT_EQ(code_of(read_secret_file(path(name), 100)), ErrorCode::kInvalidArgument) << name;
    EXPECT_EQ(code_of(read_text_file(path(name), 100)), ErrorCode::kInvalidArgument) << name;
  }
  EXPECT_EQ(code_of(read_trusted_file(path("none"), 100)), ErrorCode::kNotFound);
}

TEST_F(PrivateFilesTest, SecretsAreForTheirOwnerAlone) {
  write("key", "secret");
  ASSERT_EQ(::chmod(path("key").c_str(), 0640), 0);
  EXPECT_EQ(read_secret_file(path("key"), 100).value_or("(none)"), "secret");
  ASSERT_EQ(::chmod(path("key").c_str(), 0644), 0);
  EXPECT_EQ(code_of(read_secret_file(path("key"), 100)), ErrorCode::kPermission);
}

TEST_F(PrivateFilesTest, CopiesForItsOwnerAlone) {
  ASSERT_EQ(::mkdir(path("from").c_str(), 0755), 0);
  write("from/table", "t");
  ASSERT_EQ(::chmod(path("from/table").c_str(), 0644), 0);

  ASSERT_TRUE(succeeded(copy_files(path("from"), path("to"))));

  EXPECT_EQ(mode_of(path("to")), 0700u);
  EXPECT_EQ(mode_of(path("to/table")), 0600u);
}

using PartialFileTest = NamedFilesTest;

TEST_F(PartialFileTest, PrivateOneTakesNothingFromWhatItReplaces) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
  write("state", "old");
  ASSERT_EQ(::chown(path("state").c_str(), 1000, 1001), 0);
  ASSERT_EQ(::chmod(path("state").c_str(), 0666), 0);
  auto file = PartialFile::create_private(path("state"), find_place(path("state")).value());
  ASSERT_TRUE(succeeded(file));
  ASSERT_TRUE(succeeded(file->publish()));
  struct stat status{};
  ASSERT_EQ(::stat(path("state").c_str(), &status), 0);
  EXPECT_EQ(status.st_uid, 0u);
  EXPECT_EQ(status.st_mode & 07777, 0600u);
}

TEST_F(PartialFileTest, AppearsOnlyWhenPublished) {
  {
    auto file = PartialFile::create(path("state"));
    ASSERT_TRUE(succeeded(file));
    ASSERT_TRUE(succeeded(write_at(file->fd(), as_bytes("all"), 0)));
    EXPECT_FALSE(std::filesystem::exists(path("state")));
    ASSERT_TRUE(succeeded(file->publish()));
  }
  EXPECT_EQ(text("state"), "all");
  EXPECT_EQ(mode_of(path("state")), 0600u);
  EXPECT_EQ(entries(), 1u);
}

TEST_F(PartialFileTest, AbandonedLeavesNothingAndThePublishedOneStays) {
  write("state", "old");
  {
    const auto file = PartialFile::create(path("state"));
    ASSERT_TRUE(succeeded(file));
    ASSERT_TRUE(succeeded(write_at(file->fd(), as_bytes("new"), 0)));
  }
  EXPECT_EQ(text("state"), "old");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(PartialFileTest, KeepsModeAndOwnerOfWhatItReplaces) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
  write("state", "old");
  ASSERT_EQ(::chown(path("state").c_str(), 1000, 1001), 0);
  ASSERT_EQ(::chmod(path("state").c_str(), 0640), 0);
  ASSERT_TRUE(succeeded(write_whole_file(path("state"), as_bytes("new"))));
  struct stat status{};
  ASSERT_EQ(::stat(path("state").c_str(), &status), 0);
  EXPECT_EQ(status.st_uid, 1000u);
  EXPECT_EQ(status.st_gid, 1001u);
  EXPECT_EQ(status.st_mode & 07777, 0640u);
  EXPECT_EQ(text("state"), "new");
}

TEST_F(PartialFileTest, RefusesWhatIsNoRegularFile) {
  write("victim", "precious");
  std::filesystem::create_symlink(path("victim"), path("link"));
  std::filesystem::create_directory(path("directory"));
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  for (const char* const name : {"link", "directory", "directory/", "pipe"}) {
    EXPECT_EQ(code_of(PartialFile::create(path(name))), ErrorCode::kAlreadyExists) << name;
  }
  EXPECT_EQ(code_of(PartialFile::create(path("no/file"))), ErrorCode::kNotFound);
  EXPECT_EQ(code_of(PartialFile::create("/dev/null")), ErrorCode::kAlreadyExists);
  EXPECT_EQ(text("victim"), "precious");
  EXPECT_TRUE(std::filesystem::is_symlink(path("link")));
}

TEST_F(PartialFileTest, NamesMayBeAsLongAsTheFileSystemAllows) {
  const std::string longest(255, 'a');
  EXPECT_TRUE(succeeded(write_whole_file(path(longest), as_bytes("x"))));
  EXPECT_EQ(text(longest), "x");
}

TEST_F(PartialFileTest, TwoAppearTogether) {
  auto first = PartialFile::create(path("a"));
  auto second = PartialFile::create(path("b"));
  ASSERT_TRUE(succeeded(first) && succeeded(second));
  EXPECT_FALSE(first->has_name_of(*second));
  EXPECT_TRUE(first->has_name_of(*PartialFile::create(path("./a"))));
  ASSERT_TRUE(succeeded(PartialFile::publish_together({&*first, &*second})));
  EXPECT_EQ(text("a"), "");
  EXPECT_EQ(text("b"), "");
  EXPECT_EQ(entries(), 2u);
}

TEST_F(PartialFileTest, NamesOfUnfinishedFilesAreRemovedBySignals) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    leave_nothing_unfinished();
    const UniqueFd directory(::open(path("").c_str(), O_PATH | O_CLOEXEC));
    auto name = UnfinishedName::draw(directory);
    if (!name) ::_exit(1);
    std::ofstream(path(name->text())) << "half";
    ::raise(SIGTERM);
    ::_exit(2);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM) << status;
  EXPECT_EQ(entries(), 0u);
}

using OutputFileTest = NamedFilesTest;

TEST_F(OutputFileTest, LinkStaysAndItsTargetIsReplaced) {
  std::filesystem::create_directory(path("d"));
  write("d/real", "old");
  std::filesystem::create_symlink("d/real", path("link"));
  std::filesystem::create_symlink("link", path("second"));
  std::filesystem::create_symlink("d/none", path("dangling"));
  std::filesystem::create_symlink("circle", path("circle"));
  ASSERT_TRUE(succeeded(write_output(path("second"), as_bytes("new"))));
  EXPECT_EQ(text("d/real"), "new");
  ASSERT_TRUE(succeeded(write_output(path("dangling"), as_bytes("made"))));
  EXPECT_EQ(text("d/none"), "made");
  for (const char* const name : {"link", "second", "dangling"}) {
    EXPECT_TRUE(std::filesystem::is_symlink(path(name))) << name;
  }
  EXPECT_FALSE(succeeded(write_output(path("circle"), as_bytes("x"))));
}

TEST_F(OutputFileTest, PipeGetsZerosForWhatIsSkipped) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  std::string got;
  std::jthread reader([&] {
    std::ifstream pipe(path("pipe"), std::ios::binary);
    got.assign(std::istreambuf_iterator<char>(pipe), {});
  });
  {
    auto output = OutputFile::open(path("pipe"));
    ASSERT_TRUE(succeeded(output));
    ASSERT_TRUE(succeeded(output->expect({300'000}, {2})));
    ASSERT_TRUE(succeeded(output->write(as_bytes("a"), 1)));
    ASSERT_TRUE(succeeded(output->write(as_bytes("b"), 200'000)));
    ASSERT_TRUE(succeeded(output->publish()));
  }
  reader.join();
  std::string expected(300'000, '\0');
  expected[1] = 'a';
  expected[200'000] = 'b';
  EXPECT_TRUE(got == expected);
  EXPECT_TRUE(std::filesystem::is_fifo(path("pipe")));
}

TEST_F(OutputFileTest, DevicesStayAndTheirErrorsAreTold) {
  EXPECT_TRUE(succeeded(write_output("/dev/null", as_bytes("x"))));
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
  EXPECT_EQ(code_of(write_output("/dev/full", as_bytes("x"))), ErrorCode::kNoSpace);
}

TEST_F(OutputFileTest, RefusesByName) {
  std::filesystem::create_directory(path("directory"));
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  path("socket").copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  for (const char* const name : {"directory", "directory/", "socket"}) {
    EXPECT_EQ(code_of(OutputFile::open(path(name))), ErrorCode::kAlreadyExists) << name;
  }
  EXPECT_EQ(code_of(OutputFile::open(path("no/file"))), ErrorCode::kNotFound);
  auto file = OutputFile::open(path("file"));
  ASSERT_TRUE(succeeded(file));
  EXPECT_EQ(code_of(file->expect({1}, {~std::uint64_t{0}})), ErrorCode::kNoSpace);
  EXPECT_TRUE(file->has_target_of(*OutputFile::open(path("directory/../file"))));
}

class InputFileTest : public NamedFilesTest {
 protected:
  static constexpr ByteCount kMost{1u << 20};
  std::string content(const std::string& name) const {
    const auto read = read_input(name, kMost);
    return read ? std::string(as_text(*read)) : std::string(error_name(read.error().code()));
  }
};

TEST_F(InputFileTest, StreamsAreReadToTheirEnd) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  std::string expected(500'000, '\0');
  expected[0] = 'a';
  expected[400'000] = 'b';
  std::jthread writer([&] { write("pipe", expected); });
  EXPECT_TRUE(content(path("pipe")) == expected);

  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe(ends.data()), 0);
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  ASSERT_EQ(::write(write_end.get(), "abc", 3), 3);
  write_end.reset();
  EXPECT_EQ(content("/dev/fd/" + std::to_string(read_end.get())), "abc");
}

TEST_F(InputFileTest, StreamHasABound) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  std::jthread writer([&] { write("pipe", std::string(kMost.value + 1, 'x')); });
  EXPECT_EQ(content(path("pipe")), "too_large");
}

TEST_F(InputFileTest, RefusesWhatHasNoEndOrNoContent) {
  std::filesystem::create_directory(path("directory"));
  for (const std::string& name :
       {path("directory"), std::string("/dev/zero"), std::string("/dev/null"),
        std::string("/proc/self/mem"), std::string("/proc/self/maps")}) {
    EXPECT_EQ(content(name), "invalid_argument") << name;
  }
  EXPECT_EQ(content(path("none")), "not_found");
}

TEST_F(InputFileTest, TellsThatAFileWasWrittenOrReplaced) {
  write("file", "abc");
  const auto change_after = [&](const std::function<void()>& act) {
    const auto input = InputFile::open(path("file"), kMost);
    act();
    return input->change().value();
  };
  using enum InputFile::Change;
  EXPECT_EQ(change_after([] {}), kNone);
  EXPECT_EQ(change_after([&] { write("file", "xyz"); }), kWritten) << "at once after it was opened";
  EXPECT_EQ(change_after([&] { std::filesystem::resize_file(path("file"), 2); }), kWritten);
  EXPECT_EQ(change_after([&] {
              const auto before = std::filesystem::last_write_time(path("file"));
              write("file", "uv");
              std::filesystem::last_write_time(path("file"), before);
            }),
            kWritten)
      << "with its old time";
  EXPECT_EQ(change_after([&] {
              write("other", "n");
              std::filesystem::rename(path("other"), path("file"));
            }),
            kReplaced);
}

TEST_F(InputFileTest, TellsThatAProgramMayWriteTheFileStill) {
  write("file", "abc");
  const auto input = InputFile::open(path("file"), kMost);
  ASSERT_TRUE(succeeded(input));
  EXPECT_FALSE(input->may_have_writers());
  UniqueFd writer(::open(path("file").c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_TRUE(input->may_have_writers());
  void* const mapped = ::mmap(nullptr, 3, PROT_READ | PROT_WRITE, MAP_SHARED, writer.get(), 0);
  ASSERT_NE(mapped, MAP_FAILED);
  writer.reset();
  EXPECT_TRUE(input->may_have_writers()) << "by what is mapped";
  ::munmap(mapped, 3);
  EXPECT_FALSE(input->may_have_writers());
}

}  // namespace
}  // namespace thaw::test
