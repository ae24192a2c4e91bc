#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/stream.h"
#include "cli/report.h"

namespace thaw {

/// The command line of `thaw`: program-wide options first, then those of all commands.
struct Options {
  std::vector<std::string> servers{kDefaultServer};
  std::string name_space = "default";
  std::string control = "/run/thaw/control.sock";
  TransportFlags transport;
  bool json = false;

  std::string name;
  std::string memory;
  std::string state;
  std::string parent;
  bool diff = false;
  std::vector<std::uint64_t> cr3s;
  bool la57 = false;
  std::string below_4g = "0";
  std::vector<std::string> labels;
  std::vector<std::string> regions;

  std::string tag;
  std::vector<std::string> removed_labels;
  bool when_unused = false;
  bool dry_run = false;
  bool at_once = false;
  bool repair = false;
  // Settings of the namespace; nothing: left as they are.
  std::optional<std::string> quota;
  std::optional<std::uint64_t> quota_snapshots;
  std::optional<std::uint64_t> keep_last;
  std::optional<std::string> keep_for;
  std::optional<std::string> keep_per_label;

  std::string socket;
  std::string owner;
  std::string on_unservable = "kill";
  std::uint32_t unservable_after_s = 0;
  bool record = false;
  bool no_record = false;
  std::uint32_t record_idle_ms = 1000;
  std::uint32_t record_most_ms = 10'000;
  bool no_prefetch = false;
  std::uint64_t hydrate_mib_s = 0;
  bool shared = false;
  bool allow_root_vmm = false;
  bool verify = false;
  std::string trace;
  std::uint64_t session = 0;
  bool kill = false;

  std::string directory;  // of certificates
  std::vector<std::string> hosts;
  unsigned days = 0;

  std::string file;  // of recordings, or the picture
  unsigned runs = 3;
  std::vector<std::string> command;

  OutputForm form() const { return json ? OutputForm::kJson : OutputForm::kTable; }
};

}  // namespace thaw
