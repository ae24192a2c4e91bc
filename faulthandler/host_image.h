#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/mapping.h"
#include "faulthandler/served_memory.h"

namespace thaw {

/// The memory of one snapshot on this host: a memory file that any number of VMs map privately. A
/// page is brought once for all of them; a VM that touches it later raises no fault. What a guest
/// writes is its own copy and never reaches the file. On the loop's thread.
///
/// The file is filled through a mapping of our own with a userfaultfd of its own, as if it were a
/// VM: a page appears whole or not at all, and nobody else can write one. But whoever maps the file
/// and touches a missing page without having registered it makes that page zero for all. So the
/// pages of the file are counted, and one that was not filled here ends all VMs on it.
class HostImage final : private VmMemory::Owner {
 public:
  /// A VM on the image.
  class View {
   public:
    virtual void on_present(PageRange pages) = 0;
    /// The image is of no use any more.
    virtual void on_spoiled(const std::string& reason) = 0;
    /// A page that the VM may or may not wait for cannot be had at present.
    virtual void on_unservable(PageIndex page, const std::string& reason) = 0;

   protected:
    ~View() = default;
  };

  /// kUnsupported when the snapshot has huge pages. Its working set begins to stream in.
  /// REQUIRES: options.places.
  static Result<std::unique_ptr<HostImage>> create(Loop& loop, DemandLink& link,
                                                   ServeOptions options);
  /// The image of another process, which has died: its file, a descriptor of that for VMMs, and its
  /// record. kCorrupt when there is a page in it that nobody has put in there.
  struct Kept {
    UniqueFd file;
    UniqueFd view;
    MemoryRecord record;
  };
  static Result<std::unique_ptr<HostImage>> adopt(Loop& loop, DemandLink& link,
                                                  ServeOptions options, Kept kept);
  HostImage(const HostImage&) = delete;
  HostImage& operator=(const HostImage&) = delete;
  virtual ~HostImage() = default;

  const SnapshotImage& snapshot() const { return *options_.image; }
  /// For VMMs; cannot be written through.
  const UniqueFd& view() const { return view_; }
  /// For whoever goes on after this process.
  const UniqueFd& file() const { return file_; }
  const MemoryRecord& record() const { return record_; }

  /// As long as there is a view, the page server keeps the snapshot.
  void add(View& view);
  void remove(View& view);
  bool in_use() const { return !views_.empty(); }
  /// When the last view went.
  Clock::time_point last_used() const { return last_used_; }
  /// Looks whether somebody has spoiled it.
  void check_file();
  /// Whether it may be given to a VM: nobody is known to have spoiled it, and it is not being
  /// ended.
  bool usable() const { return usable_; }

  PageState state(PageIndex page) const { return memory_.state(page); }
  bool is_present(PageIndex page) const { return state(page) == PageState::kPresent; }
  /// Has missing pages brought; on_present() tells, in this call or later.
  void demand(std::span<const PageIndex> pages);
  /// The content of a chunk, if a page that is present has it and nobody has spoiled the image.
  /// Valid as long as the image.
  std::optional<PageSpan> find(ChunkId chunk) const;

  ByteCount present() const;
  void add_to(SessionReport& report) const { memory_.add_to(report); }

  /// REQUIRES: !in_use(). May be destroyed once finished().
  void stop();
  bool finished() const { return memory_.finished() && !guarding_.active(); }
  /// What takes long to give back to the kernel, a second for 64 GiB. Any thread may destroy it.
  struct Memory {
    Mapping mapping;
    UniqueFd file;
    UniqueFd view;
  };
  /// REQUIRES: finished(); nothing but its destruction comes after.
  Memory take_memory() { return {std::move(mapping_), std::move(file_), std::move(view_)}; }

 private:
  HostImage(Loop& loop, DemandLink& link, ServeOptions options, Kept kept, Mapping mapping);
  /// Maps the file and has the mapping served.
  static Result<std::unique_ptr<HostImage>> serve(Loop& loop, DemandLink& link,
                                                  ServeOptions options, Kept kept);

  void give_up(const std::string& reason) override;
  void stop_vm(const std::string& reason) override { give_up(reason); }
  Unservable on_unservable(PageIndex page, const std::string& reason) override;
  void on_memory_short(const std::string& what) override;
  void on_memory_slow(const std::string& what) override { on_memory_short(what); }
  void on_faults() override {}
  void on_window_end(std::vector<Touch>) override {}
  void on_detached() override {}
  void on_present(PageRange pages) override;
  /// Whether the file has the pages that were put in here and no other. Those that may have been
  /// put in but are not counted yet can hide as many.
  Result<bool> has_own_pages_only() const;
  void on_guard_timer();

  Loop& loop_;
  DemandLink& link_;
  const ServeOptions options_;
  UniqueFd file_;
  UniqueFd view_;
  MemoryRecord record_;
  Mapping mapping_;
  ServedMemory memory_;
  std::vector<View*> views_;
  Clock::time_point last_used_ = Clock::now();
  bool usable_ = true;
  Operation guarding_{[this](int) { on_guard_timer(); }};
};

}  // namespace thaw
