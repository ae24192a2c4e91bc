#include "base/unfinished_name.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <utility>

#include <unistd.h>

#include "base/bytes.h"
#include "base/random.h"

namespace thaw {

namespace {

constexpr std::size_t kNameBytes = 24;
constexpr int kFree = -1;
constexpr int kClaimed = -2;

/// Read by the signal handler. An entry counts while its directory is a descriptor.
struct Slot {
  std::atomic<int> directory = kFree;
  std::array<char, kNameBytes> name{};
};
/// A program writes few files at a time. Names beyond that are removed by their objects alone.
std::array<Slot, 8> slots;

int claim_slot(int directory, const std::string& name) {
  for (std::size_t i = 0; i < slots.size(); ++i) {
    int expected = kFree;
    if (!slots[i].directory.compare_exchange_strong(expected, kClaimed)) continue;
    slots[i].name.fill('\0');
    std::copy_n(name.begin(), std::min(name.size(), kNameBytes - 1), slots[i].name.begin());
    slots[i].directory = directory;
    return static_cast<int>(i);
  }
  return -1;
}

/// Calls only what a signal handler may call.
void remove_unfinished(int signal) {
  for (Slot& slot : slots) {
    const int directory = slot.directory;
    if (directory >= 0) ::unlinkat(directory, slot.name.data(), 0);
  }
  // The disposition is the default one by now (SA_RESETHAND).
  ::raise(signal);
}

void ignore(int) {}

}  // namespace

Result<UnfinishedName> UnfinishedName::draw(const UniqueFd& directory) {
  std::array<std::byte, 8> random{};
  TRY(fill_random(random));
  UnfinishedName drawn;
  drawn.directory_ = directory.get();
  drawn.name_ = fmt::format(".thaw-{:016x}", load_le<std::uint64_t>(random.data()));
  drawn.slot_ = claim_slot(drawn.directory_, drawn.name_);
  return drawn;
}

UnfinishedName::UnfinishedName(UnfinishedName&& other) noexcept
    : directory_(other.directory_),
      name_(std::exchange(other.name_, {})),
      slot_(std::exchange(other.slot_, -1)) {}

UnfinishedName& UnfinishedName::operator=(UnfinishedName&& other) noexcept {
  std::swap(directory_, other.directory_);
  std::swap(name_, other.name_);
  std::swap(slot_, other.slot_);
  return *this;
}

UnfinishedName::~UnfinishedName() {
  if (!name_.empty()) ::unlinkat(directory_, name_.c_str(), 0);
  forget();
}

void UnfinishedName::forget() {
  if (slot_ >= 0) slots[static_cast<std::size_t>(slot_)].directory = kFree;
  slot_ = -1;
  name_.clear();
}

void leave_nothing_unfinished() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action{};
    if (::sigaction(signal, nullptr, &action) != 0 || action.sa_handler == SIG_IGN) continue;
    action = {};
    action.sa_handler = remove_unfinished;
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    ::sigaction(signal, &action, nullptr);
  }
  struct sigaction action{};
  action.sa_handler = ignore;  // and not SIG_IGN, which programs that are executed would inherit
  ::sigaction(SIGXFSZ, &action, nullptr);
}

}  // namespace thaw
