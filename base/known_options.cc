#include "base/known_options.h"

#include <algorithm>
#include <array>

namespace thaw {

namespace {

constexpr auto kOfThaw =
    std::to_array<std::string_view>({"control", "insecure", "json", "namespace", "server", "tls-ca",
                                     "tls-cert", "tls-crl", "tls-key"});

constexpr auto kCommandsOfThaw = std::to_array<std::string_view>(
    {"backup",  "certs", "compact", "fsck", "gc",     "label",  "ls", "namespace",
     "prepare", "ps",    "pull",    "push", "record", "retain", "rm", "scrub",
     "show",    "stats", "stop",    "tag",  "untag",  "usage",  "ws"});

constexpr auto kOfPageServer =
    std::to_array<std::string_view>({"allow-all",       "backups",      "from-backup",
                                     "gc-minutes",      "gc-percent",   "insecure",
                                     "keep-recordings", "listen",       "log-file",
                                     "max-connections", "min-free-mib", "no-sandbox",
                                     "pin-grace-s",     "policy",       "replica",
                                     "store",           "tls-ca",       "tls-cert",
                                     "tls-crl",         "tls-key",      "upkeep-interval-s",
                                     "upkeep-mib-s",    "verbose"});

constexpr auto kOfFaultHandler = std::to_array<std::string_view>(
    {"around",   "control",   "http",       "http-public", "images-mib",   "index-mib", "insecure",
     "log-file", "namespace", "no-sandbox", "placement",   "record-every", "server",    "spin-us",
     "tls-ca",   "tls-cert",  "tls-crl",    "tls-key",     "verbose",      "workers"});

constexpr auto kPrograms =
    std::to_array<KnownProgram>({{"thaw", "thaw", kOfThaw, kCommandsOfThaw},
                                 {"thaw-pageserver", "pageserver", kOfPageServer, {}},
                                 {"thaw-faulthandler", "faulthandler", kOfFaultHandler, {}}});

constexpr auto kVariables = std::to_array<std::string_view>(
    {"THAW_BIN", "THAW_CONFIG", "THAW_DISK", "THAW_DISK_", "THAW_HANDLER_UID", "THAW_QEMU_",
     "THAW_RUN", "THAW_SOCKET", "THAW_STATE", "THAW_TEST_"});

}  // namespace

std::span<const KnownProgram> known_programs() { return kPrograms; }

std::vector<std::string_view> all_known_options() {
  std::vector<std::string_view> all;
  for (const KnownProgram& program : kPrograms) {
    all.insert(all.end(), program.options.begin(), program.options.end());
  }
  std::ranges::sort(all);
  const auto repeated = std::ranges::unique(all);
  all.erase(repeated.begin(), repeated.end());
  return all;
}

std::span<const std::string_view> other_known_variables() { return kVariables; }

}  // namespace thaw
