#include "tests/support/served_guest.h"

#include <algorithm>
#include <array>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cpu.h"
#include "tests/support/programs.h"

namespace thaw::test {

LoopThread::LoopThread(Create create) : tasks_(TaskQueue::create().value()) {
  std::promise<void> created;
  thread_ = std::jthread([this, create, &created] {
    loop_ = create().value();
    thread_id_ = this_thread_id();
    created.set_value();
    std::function<void(int)> on_tasks;
    Operation watch([&on_tasks](int result) { on_tasks(result); });
    on_tasks = [&](int result) {
      if (result < 0) return;
      loop_->poll(tasks_->wakeup(), POLLIN, watch);
      tasks_->run_all();
    };
    on_tasks(0);
    loop_->run({.before = [] {}, .after = [] {}});
    loop_.reset();
  });
  created.get_future().wait();
}

LoopThread::~LoopThread() {
  run([this] { loop_->stop(); });
}

void LoopThread::run(std::function<void()> task) {
  const auto done = std::make_shared<std::promise<void>>();
  CHECK(tasks_
            ->post([&task, done] {
              task();
              done->set_value();
            })
            .has_value());
  CHECK(done->get_future().wait_for(kPatience) == std::future_status::ready);
}

LoopThread::Hold::Hold(LoopThread& loop) {
  auto held = std::make_shared<std::promise<void>>();
  auto release = std::make_shared<std::future<void>>(release_.get_future());
  CHECK(loop.tasks_
            ->post([held, release] {
              held->set_value();
              release->wait();
            })
            .has_value());
  held->get_future().wait();
}

LoopThread::Hold::~Hold() { release_.set_value(); }

GuestThread::GuestThread(std::function<void()> act)
    : thread_([this, act = std::move(act)] {
        thread_id_ = this_thread_id();
        act();
        ended_ = true;
      }) {}

void GuestThread::wait_until_blocked() const {
  const Deadline deadline = Deadline::after(kPatience);
  while (!ended_) {
    CHECK(!deadline.passed());
    const pid_t thread = thread_id_;
    const std::string stat = thread == 0 ? "" : stat_fields("self/task/" + std::to_string(thread));
    if (!stat.empty() && stat[0] != 'R') return;
    std::this_thread::yield();
  }
}

void GuestThread::join() {
  if (thread_.joinable()) thread_.join();
}

namespace {

UniqueFd create_userfaultfd_with(std::uint64_t features) {
  UniqueFd fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  uffdio_api api{.api = UFFD_API, .features = features | UFFD_FEATURE_EVENT_REMOVE, .ioctls = 0};
  CHECK(fd.valid() && ::ioctl(fd.get(), UFFDIO_API, &api) == 0);
  return fd;
}

MutableByteSpan map_memory(ByteCount size) {
  void* const at = ::mmap(nullptr, size.value, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(at != MAP_FAILED && ::madvise(at, size.value, MADV_NOHUGEPAGE) == 0);
  return {static_cast<std::byte*>(at), size.value};
}

}  // namespace

ServedGuest::ServedGuest(LoopThread& loop, DemandLink& link, const GuestOptions& options)
    : ServedGuest(loop, link, options,
                  map_memory(bytes_of(options.map.size() +
                                      PageCount{options.second_region != 0 ? 1u : 0u}))) {}

ServedGuest::ServedGuest(LoopThread& loop, DemandLink& link, GuestOptions options,
                         MutableByteSpan memory)
    : loop_(loop),
      memory_(memory),
      second_region_(options.second_region),
      userfaultfd_(create_userfaultfd_with(options.features)) {
  SnapshotImage image;
  image.manifest.spec.memory = bytes_of(options.map.size());
  image.map = std::move(options.map);
  image_ = std::make_shared<const SnapshotImage>(std::move(image));
  const std::size_t pages = image_->manifest.spec.memory_pages().value;
  const std::size_t first = second_region_ != 0 ? second_region_ : pages;
  std::vector<HandoffRegion> handoff;
  for (const auto& [from, to] : {std::pair{std::size_t{0}, first}, std::pair{first, pages}}) {
    if (from == to) continue;
    const ByteCount size = bytes_of({to - from});
    CHECK(register_missing(userfaultfd_, address(from), size).has_value());
    handoff.push_back({address(from), size, offset_of({from}), {options.page_bytes}});
  }
  regions_ = RegionTable::check(handoff, image_->manifest.spec).value();
  record_ = MemoryRecord::create("", image_->manifest.spec.memory_pages()).value();
  loop_.run([&] {
    served_ =
        std::make_unique<ServedMemory>(loop_.loop(), link,
                                       ServeOptions{.image = image_,
                                                    .around = options.around,
                                                    .prefetch = options.prefetch,
                                                    .memory_patience = options.memory_patience,
                                                    .plan = options.plan,
                                                    .window = options.window,
                                                    .window_use = options.window_use},
                                       *record_, static_cast<ServedMemory::Owner&>(*this));
    served_->connect();
  });
}

void ServedGuest::attach() {
  loop_.run([this] {
    served_->start(UniqueFd(::fcntl(userfaultfd_.get(), F_DUPFD_CLOEXEC, 0)), regions_);
  });
}

void ServedGuest::end_session() {
  loop_.run([this] { served_->stop(); });
  for (bool finished = false; !finished;) loop_.run([&] { finished = served_->finished(); });
}

ServedGuest::~ServedGuest() {
  end_session();
  loop_.run([this] { served_.reset(); });
  userfaultfd_.reset();  // nobody would read of the end of the memory
  ::munmap(memory_.data(), memory_.size());
}

HostAddress ServedGuest::address(std::size_t index) const {
  return {reinterpret_cast<std::uintptr_t>(page(index))};
}

bool ServedGuest::is_present(std::size_t index) const {
  unsigned char state = 0;
  CHECK(::mincore(page(index), kPageBytes, &state) == 0);
  return (state & 1) != 0;
}

bool ServedGuest::has_content(std::size_t index) const {
  const ChunkId chunk = image_->map.chunk_of({index});
  if (!chunk.valid()) return has_zeros(index);
  const PlainPage content = content_of(chunk);
  return std::equal(content.begin(), content.end(), page(index));
}

bool ServedGuest::has_zeros(std::size_t index) const {
  return std::all_of(page(index), page(index) + kPageBytes,
                     [](std::byte b) { return b == std::byte{0}; });
}

void ServedGuest::give_back(std::size_t first, std::size_t count) const {
  CHECK(::madvise(page(first), count * kPageBytes, MADV_DONTNEED) == 0);
}

SessionReport ServedGuest::report() {
  SessionReport report;
  loop_.run([&] { served_->add_to(report); });
  return report;
}

std::string ServedGuest::given_up() {
  std::string reason;
  loop_.run([&] { reason = given_up_; });
  return reason;
}

std::string ServedGuest::unservable() {
  std::string reason;
  loop_.run([&] { reason = unservable_; });
  return reason;
}

std::optional<std::vector<Touch>> ServedGuest::touches() {
  std::optional<std::vector<Touch>> touches;
  loop_.run([&] { touches = touches_; });
  return touches;
}

bool ServedGuest::detached() {
  bool detached = false;
  loop_.run([&] { detached = detached_; });
  return detached;
}

}  // namespace thaw::test
