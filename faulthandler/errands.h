#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "base/memory_limits.h"
#include "base/process.h"
#include "base/process_maps.h"
#include "base/unique_fd.h"
#include "base/vcpu_activity.h"

namespace thaw {

/// What a handler has done by a process that may do it: it has given up the rights to look into
/// other processes and to make files. It names a session, and neither a process nor a path.
struct Errand {
  enum class Kind : std::uint32_t {
    kMappings = 1,     // where the VMM has mapped its host image
    kVcpus = 2,        // whether it has let its guest run
    kBackingFile = 3,  // what is behind its memory, at the addresses `at`
    kExit = 4,         // how it has ended
    kTrace = 5,        // `file` is the content of the trace that the session was prepared for
  };
  Kind kind{};
  std::vector<HostAddress> at{};  // at most limits::kMaxErrandAddresses
  UniqueFd file{};
};

/// What came of it: of the members what belongs to its kind.
struct ErrandResult {
  std::string failure{};  // why it is not done; empty: it is
  std::vector<FileRange> mappings{};
  VcpuActivity vcpus = VcpuActivity::kUnknown;
  BackingFile backing{};
  std::optional<ExitStatus> exit{};

  bool done() const { return failure.empty(); }
};

/// The VMM that an errand is about, and what was prepared for it.
struct ErrandSubject {
  pid_t pid = 0;                     // 0: not known
  const UniqueFd* pidfd = nullptr;   // nullptr, in this and the others: there is none
  const UniqueFd* image = nullptr;   // the host image that it maps
  const UniqueFd* traces = nullptr;  // the directory of its trace
  std::string trace{};               // the trace's path; its last part is its name there
};

/// Does it, in this process. It may take as long as the VMM likes. Any thread.
ErrandResult do_errand(const Errand& errand, const ErrandSubject& subject);

class ErrandTask;

/// Who has errands done, one after the other for each session. On the loop's thread.
class Errands {
 public:
  /// Calls task.finish(), now or later, after limits::kErrandPatience at the latest. REQUIRES: the
  /// subject is that of this session.
  virtual void begin(ErrandTask& task, std::uint64_t session, Errand errand,
                     const ErrandSubject& subject) = 0;
  /// The task does not want to know any more.
  virtual void forget(ErrandTask& task) = 0;

 protected:
  ~Errands() = default;
};

/// One errand at a time of its owner. On the loop's thread.
class ErrandTask {
 public:
  /// `done` may begin another one, and must not destroy the task.
  explicit ErrandTask(std::function<void(ErrandResult)> done) : done_(std::move(done)) {}
  ErrandTask(const ErrandTask&) = delete;
  ErrandTask& operator=(const ErrandTask&) = delete;
  ~ErrandTask() { cancel(); }

  bool active() const { return errands_ != nullptr; }
  /// REQUIRES: not active().
  void start(Errands& errands, std::uint64_t session, Errand errand, const ErrandSubject& subject) {
    errands_ = &errands;
    errands.begin(*this, session, std::move(errand), subject);
  }
  void cancel() {
    if (active()) std::exchange(errands_, nullptr)->forget(*this);
  }

  // For Errands.
  void finish(ErrandResult result) {
    errands_ = nullptr;
    done_(std::move(result));
  }

 private:
  const std::function<void(ErrandResult)> done_;
  Errands* errands_ = nullptr;
};

/// Has them done at once, by the caller: where a process has no supervisor.
class OwnErrands final : public Errands {
 public:
  void begin(ErrandTask& task, std::uint64_t, Errand errand,
             const ErrandSubject& subject) override {
    task.finish(do_errand(errand, subject));
  }
  void forget(ErrandTask&) override {}
};

}  // namespace thaw
