#include "vmm-client/memory_shell.h"

#include <variant>

#include "base/file.h"

namespace thaw {

Result<void> restore_memory(GuestMemory& memory, const MemorySource& source, Deadline deadline,
                            PhaseTimer& phases) {
  if (const auto* const session = std::get_if<PreparedSession>(&source)) {
    phases.begin("handover");
    return memory.hand_over(session->socket_path, deadline);
  }
  phases.begin("contents");
  if (const auto* const image = std::get_if<ImageBytes>(&source)) return memory.fill(image->bytes);
  return memory.fill(TRY(open_for_reading(std::get<ImageFile>(source).path)));
}

Result<void> MemoryShell::restore(const RestoreSource& source, Deadline deadline,
                                  PhaseTimer& phases) {
  if (!source.state_path.empty()) {
    return fail(ErrorCode::kUnsupported, "guest memory alone has no use for a state file");
  }
  return restore_memory(memory_, source.memory, deadline, phases);
}

Result<std::unique_ptr<Shell>> MemoryShellFactory::create(PhaseTimer& phases) {
  phases.begin("memory");
  return std::make_unique<MemoryShell>(TRY(GuestMemory::create(shapes_)));
}

}  // namespace thaw
