#include <algorithm>
#include <functional>
#include <string_view>

#include "base/command_line.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "base/output.h"
#include "base/program.h"
#include "base/thread.h"
#include "base/unfinished_name.h"
#include "cli/commands.h"
#include "cli/limits.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/report.h"

namespace thaw {

namespace {

/// Returns the exit code, unless it fails.
using Command = std::function<Result<int>(const Options&)>;

Command as_command(Result<void> (*run)(const Options&)) {
  return [run](const Options& options) -> Result<int> {
    TRY(run(options));
    return 0;
  };
}
Command as_command(Result<int> (*run)(const Options&)) { return run; }

/// Declares commands below an app; the one that the user chose is stored in `chosen`.
class Declaration {
 public:
  Declaration(CLI::App& app, Options& options, Command& chosen)
      : app_(app), options_(options), chosen_(chosen) {}

  void declare_all() {
    declare_snapshot_commands();
    declare_upkeep_commands();
    declare_session_commands();
    declare_working_set_commands();
    declare_record();
    declare_certificates();
  }

 private:
  template <typename Run>
  CLI::App* command(CLI::App& parent, const char* name, const char* description, Run run) {
    CLI::App* const subcommand = parent.add_subcommand(name, description);
    subcommand->fallthrough();
    subcommand->callback([&chosen = chosen_, subcommand, run] {
      const bool goes_on = !subcommand->get_subcommands().empty();
      if (!goes_on) chosen = as_command(run);
    });
    return subcommand;
  }
  CLI::Option* name_snapshot(CLI::App* subcommand) {
    return subcommand->add_option("snapshot", options_.name,
                                  "Its name; what reads it takes a tag, too, and\n"
                                  "NAME@sha256:HEX for no other content");
  }
  /// A command on one snapshot.
  template <typename Run>
  CLI::App* command_on(CLI::App& parent, const char* name, const char* description, Run run) {
    CLI::App* const subcommand = command(parent, name, description, run);
    name_snapshot(subcommand)->required();
    return subcommand;
  }

  void declare_snapshot_commands() {
    CLI::App* sub = command_on(app_, "push", "Store a snapshot on the page server", command::push);
    sub->add_option("--memory", options_.memory,
                    "Raw image of guest memory: a file, a block device, a pipe, or - for stdin")
        ->required();
    sub->add_option("--state", options_.state,
                    "The VMM's state file, kept and given back as it is");
    CLI::Option* const parent =
        sub->add_option("--parent", options_.parent,
                        "Snapshot that this one came from: until it has recordings of its own, its "
                        "working set is that one's");
    CLI::Option* const diff =
        sub->add_flag(
               "--diff", options_.diff,
               "The image has only what changed, as Firecracker's diff snapshots do: where it "
               "has a hole, memory is as in the parent")
            ->needs(parent);
    sub->add_option("--label", options_.labels, "KEY=VALUE, may be repeated");
    sub->add_option("--region", options_.regions,
                    "SIZE[:PAGE_SIZE] of each memory region in order; a VM is then only served "
                    "if its regions are these");
    CLI::Option* const cr3 =
        sub->add_option(
               "--cr3", options_.cr3s,
               "Root of an x86-64 guest's page tables, may be repeated: pages that none of "
               "them reaches are cold, and hydrated last")
            ->excludes(diff);
    sub->add_flag("--la57", options_.la57, "They have five levels")->needs(cr3);
    sub->add_option("--below-4g", options_.below_4g,
                    "With --cr3: memory that the guest has below 4 GiB, if it has some above; else "
                    "the first of several regions")
        ->type_name("SIZE")
        ->needs(cr3);

    sub = command_on(app_, "pull", "Write a snapshot's memory image, sparse, and state file",
                     command::pull);
    sub->add_option(
           "--memory", options_.memory,
           "File for the memory image, or a pipe, a device, - for stdout: these get all zeros as "
           "well")
        ->required();
    sub->add_option("--state", options_.state, "File for the VMM's state");

    command(app_, "ls", "List the snapshots", command::list);
    command_on(app_, "show", "Show one snapshot", command::show);
    sub = command_on(app_, "rm", "Delete a snapshot; `gc` frees the space", command::remove);
    sub->add_flag(
        "--when-unused", options_.when_unused,
        "If restores are using it: take its name away now, delete it after the last of them");
    command(app_, "stats", "Show what the page server holds", command::statistics);
  }

  void declare_upkeep_commands() {
    CLI::App* sub =
        command_on(app_, "tag", "Make NAME:TAG stand for a snapshot from now on", command::tag);
    sub->add_option("tag", options_.tag, "NAME:TAG")->required();
    sub = command(app_, "untag", "Remove a tag; its snapshot stays", command::untag);
    sub->add_option("tag", options_.tag, "NAME:TAG")->required();
    sub = command_on(app_, "label", "Set or remove labels of a snapshot", command::label);
    sub->add_option("labels", options_.labels, "KEY=VALUE ...");
    sub->add_option("--remove", options_.removed_labels, "KEY, may be repeated");
    sub = command(app_, "usage", "Show what a snapshot takes up, or all of the namespace",
                  command::show_usage);
    name_snapshot(sub);

    sub = command(app_, "namespace",
                  "Show or set quotas and how long snapshots are kept; delete a namespace",
                  command::show_or_set_namespace);
    command(*sub, "rm", "Delete a namespace that has nothing and that no connection uses",
            command::remove_namespace)
        ->add_option("name", options_.name, "Name of the namespace")
        ->required();
    sub->add_option("--quota", options_.quota,
                    "Bytes that may be stored, such as 100G; 0: any. Working sets have at most a "
                    "quarter, and give way to pushes")
        ->type_name("SIZE");
    sub->add_option("--quota-snapshots", options_.quota_snapshots,
                    "Snapshots that there may be; 0: any");
    sub->add_option("--keep-last", options_.keep_last,
                    "Keep the newest so many; with --keep-for, those that either keeps");
    sub->add_option("--keep-for", options_.keep_for, "Keep those younger than this, such as 7d")
        ->type_name("TIME");
    allow_empty(*sub->add_option("--keep-per-label", options_.keep_per_label,
                                 "Count --keep-last for each value of this label on its own"));

    const auto dry_run = [this](CLI::App* job) {
      job->add_flag("--dry-run", options_.dry_run, "Only say what would be deleted");
    };
    dry_run(command(app_, "gc", "Delete chunks that no snapshot has", command::collect_garbage));
    sub = command(app_, "retain",
                  "Mark snapshots that the namespace's settings do not keep, and delete those that "
                  "were marked a day ago, a quarter of all at most",
                  command::retain);
    dry_run(sub);
    sub->add_flag("--now", options_.at_once, "Delete all that is outdated, and at once");
    command(app_, "scrub", "Read and verify everything that the namespace has stored",
            command::scrub);
    command(app_, "compact", "Give unused space of the store back to its disk", command::compact);
    sub = command(app_, "backup", "Copy the whole store into the server's directory for backups",
                  command::back_up);
    sub->add_option("name", options_.name, "Name of the copy")->required();
    sub = command(app_, "fsck", "Check a store on this host that no page server has open",
                  command::check_store);
    sub->add_option("store", options_.file, "Directory of the store")->required();
    sub->add_flag("--repair", options_.repair, "Correct what can be corrected");
  }

  /// How long a recording may last.
  std::vector<CLI::Option*> declare_window(CLI::App* sub) {
    constexpr int kMostMs = 3'600'000;
    return {sub->add_option("--record-idle-ms", options_.record_idle_ms,
                            "A recording ends when the guest touched no new page for so long")
                ->check(CLI::Range(1, kMostMs))
                ->capture_default_str(),
            sub->add_option("--record-most-ms", options_.record_most_ms,
                            "and at the latest after so long")
                ->check(CLI::Range(1, kMostMs))
                ->capture_default_str()};
  }

  void declare_session_commands() {
    constexpr int kMostMibPerSecond = 1 << 20;
    CLI::App* sub = command_on(
        app_, "prepare", "Make this host's fault handler ready for a restore", command::prepare);
    sub->add_option("--socket", options_.socket, "Where the VMM will connect; no file may be there")
        ->required();
    sub->add_option("--state-out", options_.state,
                    "File to write the VMM's state to; new, or a regular file to replace");
    sub->add_option("--owner", options_.owner, "UID:GID of the socket and the state file");
    sub->add_option(
           "--on-unservable", options_.on_unservable,
           "If a page cannot be had: kill the VM, let it wait, or poison the page, so that "
           "touching it is an error for the guest (needs Linux 6.6)")
        ->check(CLI::IsMember({"kill", "wait", "poison"}))
        ->capture_default_str();
    sub->add_option("--unservable-after", options_.unservable_after_s,
                    "Seconds after which a page cannot be had if no page server has brought it; 0: "
                    "servers that are away are waited for without end")
        ->check(CLI::Range(0u, 86'400u))
        ->capture_default_str();
    CLI::Option* const record = sub->add_flag(
        "--record", options_.record,
        "Record what the guest touches even if there is a working set, which is then not used. "
        "Without a working set every restore is recorded");
    CLI::Option* const no_record =
        sub->add_flag("--no-record", options_.no_record, "Never record")->excludes(record);
    const std::vector<CLI::Option*> window = declare_window(sub);
    CLI::Option* const shared = sub->add_flag(
        "--shared", options_.shared,
        "The VM maps the one copy of the snapshot that this host has, made by the first such "
        "restore: what is there raises no fault. Needs a VMM with libthaw or thaw-qemu.so");
    shared->excludes(record);
    sub->add_flag(
           "--allow-root-vmm", options_.allow_root_vmm,
           "Let a VMM of root or of the handler's user map that copy, too, although it could "
           "change what other VMs of this snapshot read")
        ->needs(shared);
    sub->add_flag("--verify", options_.verify,
                  "With NAME@sha256:HEX: believe no page server. Page map, pages and VMM state are "
                  "checked against this hash, which costs time and memory");
    sub->add_flag("--no-prefetch", options_.no_prefetch,
                  "Do not bring the working set: every page comes on demand")
        ->excludes(record);
    sub->add_option("--hydrate-mib-s", options_.hydrate_mib_s,
                    "Bring the rest of memory in the background at up to so many MiB/s; 0: never")
        ->check(CLI::Range(0, kMostMibPerSecond))
        ->capture_default_str();
    CLI::Option* const trace =
        sub->add_option("--trace", options_.trace,
                        "File for what came when, in the window of a recording; for `ws plot`")
            ->excludes(shared);
    sub->footer(
        "Socket and files are made with the rights of this command. No symbolic link is followed "
        "below a directory that another user may change. If it is interrupted or fails, neither "
        "session nor socket nor state file is left.");
    sub->callback([=, &chosen = chosen_] {
      const bool has_window = window[0]->count() > 0 || window[1]->count() > 0;
      if (no_record->count() > 0 && trace->count() == 0 && has_window) {
        throw CLI::ExcludesError("--no-record", "--record-idle-ms and --record-most-ms");
      }
      chosen = as_command(command::prepare);
    });

    command(app_, "ps", "Show the VMs that this host's fault handler serves",
            command::list_sessions);
    sub = command(app_, "stop", "End a session", command::stop);
    sub->add_option("session", options_.session, "Number of the session")->required();
    sub->add_flag("--kill", options_.kill, "Kill its VM too; without its session it would hang");
  }

  void declare_working_set_commands() {
    CLI::App& ws = *app_.add_subcommand(
        "ws", "Look after working sets: the pages that restored guests touch first");
    ws.fallthrough();
    ws.require_subcommand(1);

    command_on(ws, "show", "Show a snapshot's working set, its recordings and what it was good for",
               command::show_working_set);
    CLI::App* sub =
        command_on(ws, "export", "Write all recordings into a file", command::export_recordings);
    sub->add_option("file", options_.file, "The file")->required();
    sub = command_on(ws, "import", "Add the recordings of a file, made with the same content",
                     command::import_recordings);
    sub->add_option("file", options_.file, "The file")->required();
    command_on(ws, "drop", "Remove the working set with its recordings and counters",
               command::drop_working_set);

    sub = command(ws, "plot", "Draw which pages were touched when, as SVG", command::plot);
    CLI::Option_group* const what = sub->add_option_group("what", "What is drawn");
    what->add_option("snapshot", options_.name, "The newest recording of this snapshot");
    what->add_option("--trace", options_.trace, "A file that `prepare --trace` wrote");
    what->require_option(1);
    sub->add_option("--out", options_.file, "File for the picture")->required();
  }

  void declare_record() {
    CLI::App* const sub = command_on(
        app_, "record", "Restore a snapshot some times and record what its guest touches",
        command::record);
    sub->add_option("--runs", options_.runs, "How many times")
        ->check(CLI::Range(std::size_t{1}, limits::kMaxRecordings))
        ->capture_default_str();
    declare_window(sub);
    sub->add_option("--out", options_.file, "File for these recordings, for `ws import`");
    allow_empty(*sub->add_option(
                        "command", options_.command,
                        "Behind \"--\": starts the VMM on $THAW_SOCKET (and $THAW_STATE, its state "
                        "file), in run number $THAW_RUN; is ended when the recording is stored")
                     ->required());
    sub->footer(
        "Example: thaw record mysnap --runs 5 -- ./start-vmm.sh\n"
        "Exit code 1 also when a run was not recorded; the others go on.");
  }

  void declare_certificates() {
    CLI::App& certs = *app_.add_subcommand(
        "certs", "Make a private authority, and certificates for page servers and their peers");
    certs.fallthrough();
    certs.require_subcommand(1);

    const auto days = [this](CLI::App* sub, unsigned usual) {
      sub->add_option("--days", options_.days,
                      fmt::format("How long it is valid; {} unless given", usual))
          ->check(CLI::Range(1u, limits::kMaxCertificateDays));
    };
    CLI::App* sub = command(certs, "init", "Make an authority in a new directory",
                            command::make_certificate_authority);
    sub->add_option("directory", options_.directory, "The directory")->required();
    days(sub, limits::kAuthorityDays);
    sub = command(certs, "issue", "Make a certificate and key, or new ones in place of old",
                  command::issue_certificate);
    sub->add_option("directory", options_.directory, "Directory of the authority")->required();
    sub->add_option("name", options_.name, "Page servers will know the peer as thaw://NAME")
        ->required();
    sub->add_option("--host", options_.hosts,
                    "DNS name or IP address under which peers reach it, if it is a page server; "
                    "may be repeated. Unless given, those of the certificate that is replaced");
    days(sub, limits::kCertificateDays);
    sub = command(certs, "revoke", "Add certificates to the authority's list for --tls-crl",
                  command::revoke_certificate);
    sub->add_option("directory", options_.directory, "Directory of the authority")->required();
    sub->add_option(
           "name", options_.name,
           "NAME: all that were issued under it. With a / in it: the path of one that this "
           "authority has issued")
        ->required();
  }

  CLI::App& app_;
  Options& options_;
  Command& chosen_;
};

}  // namespace

}  // namespace thaw

int main(int argc, char** argv) {
  thaw::begin_program(thaw::ProgramKind::kCommand);
  thaw::Options options;
  thaw::Command chosen;
  CLI::App app("Restores virtual machines before their memory has arrived.");
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 success, 1 failure, 2 wrong arguments or configuration, 3 not found,\n"
      "4 no answer, 5 exists already or busy.");
  app.add_option(
         "--server", options.servers,
         "unix:PATH or HOST:PORT of a page server; several (again, or with commas), or a name of "
         "several addresses: they are asked in turn until one answers")
      ->take_all()
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--namespace", options.name_space, "Namespace of the snapshots")
      ->capture_default_str();
  app.add_option("--control", options.control, "Control socket of the fault handler")
      ->capture_default_str();
  thaw::add_transport_options(app, options.transport);
  app.add_flag("--json", options.json, "Print JSON instead of tables");
  thaw::Declaration(app, options, chosen).declare_all();
  thaw::add_configuration(app, "thaw");
  const auto tell = [](const thaw::UsageError& usage) {
    thaw::print_error(usage.error, usage.command,
                      usage.json ? thaw::OutputForm::kJson : thaw::OutputForm::kTable);
  };
  if (const auto exit_code = thaw::parse_command_line(app, argc, argv, tell)) return *exit_code;

  thaw::leave_nothing_unfinished();
  thaw::start_logging("thaw", thaw::LogLevel::kInfo);
  const auto exit_code = thaw::within_limits([&] { return chosen(options); });
  if (!exit_code) {
    thaw::print_error(exit_code.error(), thaw::command_of(app), options.form());
    return thaw::finish_output(thaw::exit_code_for(exit_code.error().code()));
  }
  return thaw::finish_output(*exit_code);
}
