#include "tests/sim/vmm.h"

#include <algorithm>

#include "format/farewell.h"
#include "format/handoff.h"

namespace thaw::sim {

namespace {

constexpr HostAddress kFirstAddress{0x7F00'0000'0000u};
constexpr HostAddress kFirstFreeAddress{0x7F80'0000'0000u};
constexpr std::chrono::microseconds kMostStart{3000};  // of each part of a start
constexpr std::chrono::microseconds kMostWakeup{200};  // of a vCPU
constexpr Content kWritten = 0xF000'0000'0000'0000u;

Bytes to_bytes(ByteSpan bytes) { return {bytes.begin(), bytes.end()}; }

}  // namespace

Vmm::Vmm(Machine& machine, const StoredSnapshot& snapshot, const VmmOptions& options)
    : machine_(machine),
      options_(options),
      memory_(machine.schedule(), snapshot.contents),
      own_userfaultfd_(std::make_shared<Userfaultfd>(machine, memory_, Userfaultfd::Owner::kVmm)),
      userfaultfd_(own_userfaultfd_),
      process_(std::make_shared<Process>(
          machine, [this] { on_kill(); },
          [this] {
            if (was_killed_) exit();
          })),
      next_free_(kFirstFreeAddress) {
  lay_out(snapshot);
}

void Vmm::lay_out(const StoredSnapshot& snapshot) {
  std::vector<HandoffRegion> regions;
  HostAddress base = kFirstAddress;
  for (const RegionShape& shape : snapshot.image->manifest.spec.regions) {
    base += bytes_of({machine_.random().from_to(1, 5)});
    regions.push_back({base, shape.size, shape.offset, shape.page_size});
    for (std::uint64_t at = 0; at < shape.size.value; at += kPageBytes) {
      memory_.map(base + ByteCount{at}, page_of(shape.offset + ByteCount{at}));
    }
    base += shape.size;
  }
  handoff_ = encode_handoff(regions);
}

void Vmm::start(std::weak_ptr<UnixListener> listener) {
  if (!options_.shared) let_go();
  machine_.schedule().after(machine_.random().duration(kMostStart),
                            [this, listener = std::move(listener)] { hand_over(listener); });
}

void Vmm::let_go() {
  for (unsigned i = 0; i < options_.vcpus; ++i) {
    std::vector<Access> accesses;
    for (unsigned j = 0; j < options_.accesses; ++j) accesses.push_back(draw_access());
    start_vcpu(std::move(accesses));
  }
  plan(options_.removals, &Vmm::remove);
  // Those are memory's of its own alone.
  plan(options_.shared ? 0 : options_.unmaps, &Vmm::unmap);
  plan(options_.shared ? 0 : options_.moves, &Vmm::move);
  plan(options_.signals, &Vmm::send_signals);
}

void Vmm::hand_over(const std::weak_ptr<UnixListener>& listener) {
  if (exited()) return;
  const auto open = listener.lock();
  if (open == nullptr) return on_refusal();
  const auto socket = std::make_shared<UnixSocket>(machine_, process_);
  connection_ = socket;
  socket->set_on_end([this](bool all_taken) {
    if (!exited() && !left_ && !(handed_over_at_ && all_taken)) on_refusal();
  });
  if (options_.shared) {
    socket->set_on_greeting([this](std::shared_ptr<File> file) { on_greeting(std::move(file)); });
  } else {
    send_handoff();
  }
  open->connect(socket);
}

void Vmm::send_handoff() {
  // The text in one piece or two; the descriptor comes with the first.
  const ByteSpan text = as_bytes(handoff_);
  const std::size_t first = machine_.random().from_to(1, text.size());
  std::vector<Message> messages;
  messages.push_back({to_bytes(text.first(first)), {own_userfaultfd_}});
  if (first < text.size()) messages.push_back({to_bytes(text.subspan(first)), {}});
  if (!options_.keeps_userfaultfd) own_userfaultfd_.reset();
  send_rest(std::move(messages));
}

void Vmm::send_rest(std::vector<Message> messages) {
  machine_.schedule().after(machine_.random().duration(kMostStart), [this, messages] {
    const auto connection = connection_.lock();
    if (exited() || connection == nullptr) return;
    connection->send(messages.front());
    if (messages.size() > 1) return send_rest({messages.begin() + 1, messages.end()});
    handed_over_at_ = machine_.schedule().now();
    if (options_.closes_connection) connection->close();
  });
}

void Vmm::on_greeting(std::shared_ptr<File> file) {
  if (exited()) return;
  file_ = std::dynamic_pointer_cast<MemoryFile>(std::move(file));
  own_userfaultfd_->set_file(file_);
  let_go();
  send_handoff();
}

void Vmm::on_refusal() {
  machine_.schedule().note("the VMM is refused");
  was_refused_ = true;
  exit();
}

void Vmm::on_kill() {
  if (exited()) return;
  machine_.schedule().note("the VMM is killed");
  was_killed_ = true;
  was_killed_in_vain_ = needs_nobody();
  machine_.schedule().after(machine_.random().duration(kMostStart), [this] { exit(); });
}

Vmm::Access Vmm::draw_access() {
  Random& random = machine_.random();
  // Guests go on where they are, mostly.
  const std::uint64_t count = memory_.page_count().value;
  last_touched_ = random.chance(600) ? PageIndex{(last_touched_.value + 1) % count}
                                     : PageIndex{random.below(count)};
  return {last_touched_, random.chance(options_.writes)};
}

void Vmm::start_vcpu(std::vector<Access> accesses) {
  const auto vcpu = std::make_shared<Vcpu>(Vcpu{std::move(accesses), vcpus_++});
  ++running_vcpus_;
  machine_.schedule().after(machine_.random().duration(kMostStart), [this, vcpu] { go_on(vcpu); });
}

void Vmm::read_all() {
  std::vector<Access> accesses;
  for (const auto& [address, page] : memory_.pages()) accesses.push_back({page.index, false});
  start_vcpu(std::move(accesses));
}

void Vmm::go_on(const std::shared_ptr<Vcpu>& vcpu) {
  if (exited()) return;
  if (vcpu->accesses.empty()) {
    --running_vcpus_;
    return;
  }
  if (!access(vcpu, vcpu->accesses.back())) return;
  vcpu->accesses.pop_back();
  machine_.schedule().after(machine_.random().duration(options_.think),
                            [this, vcpu] { go_on(vcpu); });
}

bool Vmm::access(const std::shared_ptr<Vcpu>& vcpu, const Access& access) {
  const auto address = memory_.address_of(access.page);
  if (!address) return true;  // a VMM that unmaps memory lets no vCPU touch it
  GuestMemory::Page& page = *memory_.find(*address);
  if (page.moves) {  // nor before it knows that it is there
    machine_.schedule().after(machine_.random().duration(kMostStart),
                              [this, vcpu] { go_on(vcpu); });
    return false;
  }
  // What the file has shows by itself, unless it is asked to tell.
  if (const auto shown = file_ != nullptr ? file_->content(page.index) : std::nullopt;
      !page.content && shown && !page.minor) {
    memory_.fill(page, *shown, "the file");
  }
  if (!page.content) {
    const auto userfaultfd = userfaultfd_.lock();
    if (page.registered && userfaultfd != nullptr) {
      machine_.schedule().note("vCPU {} waits for page {}", vcpu->number, access.page.value);
      userfaultfd->fault(*address, [this, vcpu] {
        machine_.schedule().after(machine_.random().duration(kMostWakeup),
                                  [this, vcpu] { go_on(vcpu); });
      });
      return false;
    }
    memory_.fill(page, kZeroContent, "the kernel");
  }
  if (access.write) {
    memory_.write(page, kWritten + ++writes_);
  } else {
    memory_.read(page);
  }
  machine_.schedule().note("vCPU {} has page {}", vcpu->number, access.page.value);
  return true;
}

bool Vmm::needs_nobody() const {
  // One that has unmapped all of it is not known to need nobody.
  return !memory_.pages().empty() && std::ranges::none_of(memory_.pages(), [](const auto& page) {
    return page.second.registered;
  });
}

bool Vmm::waits() const {
  const auto userfaultfd = userfaultfd_.lock();
  return userfaultfd != nullptr && userfaultfd->has_waiters();
}

void Vmm::exit() {
  if (exited()) return;
  machine_.schedule().note("the VMM exits");
  if (const auto userfaultfd = userfaultfd_.lock()) userfaultfd->end_process();
  memory_.end();
  own_userfaultfd_.reset();
  running_vcpus_ = changing_ = 0;
  process_->exit();
  if (const auto connection = connection_.lock()) connection->close();
}

void Vmm::say_farewell() {
  machine_.schedule().note("the VMM says farewell");
  left_ = true;
  own_userfaultfd_.reset();
  if (const auto connection = connection_.lock()) connection->send({Bytes{kFarewell}, {}});
}

}  // namespace thaw::sim
