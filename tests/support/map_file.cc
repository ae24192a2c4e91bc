/// Maps a file the way QEMU maps its memory and prints one byte of it:
///   map_file shared|private|half|twice FILE OFFSET
/// half maps the first half only, twice maps the file a second time.

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::exit(2);
}

/// Reserves address space and maps the file into it.
const unsigned char* map(int fd, std::size_t size, std::string_view mode) {
  void* const reserved =
      ::mmap(nullptr, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) fail("reserve");
  const int protection = PROT_READ | PROT_WRITE;
  void* const at = mode == "private"
                       ? ::mmap(reserved, size, protection, MAP_PRIVATE | MAP_FIXED, fd, 0)
                       : ::mmap64(reserved, size, protection, MAP_SHARED | MAP_FIXED, fd, 0);
  if (at == MAP_FAILED) fail("map");
  return static_cast<const unsigned char*>(at);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const std::string_view mode = argv[1];
  const int fd = ::open(argv[2], O_RDWR | O_CLOEXEC);
  struct stat status{};
  if (fd < 0 || ::fstat(fd, &status) != 0) fail(argv[2]);
  auto size = static_cast<std::size_t>(status.st_size);
  if (mode == "half") size /= 2;
  const unsigned char* const memory = map(fd, size, mode);
  if (mode == "twice") map(fd, size, mode);
  std::printf("byte %u\n", static_cast<unsigned>(memory[std::strtoull(argv[3], nullptr, 10)]));
  return 0;
}
