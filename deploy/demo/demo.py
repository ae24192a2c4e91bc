"""Restores a running Linux guest on a host that has no copy of its snapshot, and compares that
with downloading the snapshot first. Exits non-zero if the guest did not go on where it stopped."""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import guest as guests
from console import ConsoleError, Tick
from hosts import Host, Network
from kernel import GuestBuildError
from programs import ProgramError, daemon, run
from qemu import Qemu, QemuError, boot_arguments, restore_arguments

# Guest memory has to be on tmpfs: there it is memory, and userfaultfd works on it.
_TMPFS = Path("/dev/shm")
_TMPFS_MIB = 1024
_TICKS_BEFORE = 10
_TICKS_AFTER = 10
_BOOT_SECONDS = 300
_RESTORE_SECONDS = 60
_CLONES = 3
# One vCPU: the lines of several come in any order.
_MICROVM = ("--memory", "64M", "--seed", "7")
_ROUNDS = 40
_MIB = 1 << 20
_PAGE_BYTES = 4096


class DemoError(RuntimeError):
    """The demo did not show what it is there to show, or cannot run here."""


@dataclass(frozen=True)
class Saved:
    """What the guest had said when it was stopped."""

    last: Tick
    unfinished_line: str


@dataclass(frozen=True)
class Restore:
    """The figures of one way to restore; bytes and pages count until _TICKS_AFTER lines."""

    first_line_seconds: float
    network_bytes: int
    pages: int
    report: str = ""


def say(text: str) -> None:
    print(f"== {text}", flush=True)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_order(first_number: int, checksum: str, ticks: Sequence[Tick]) -> None:
    numbers = [tick.number for tick in ticks]
    if numbers != list(range(first_number, first_number + len(ticks))):
        raise DemoError(f"the counter should go on with {first_number} and went on as {numbers}")
    for tick in ticks:
        if tick.checksum != checksum:
            raise DemoError(f"the guest's checksum was {checksum} and is {tick.checksum} "
                            f"at tick {tick.number}")


class Demo:
    def __init__(self, guest: guests.Guest, programs: Path, work: Path, ram: Path,
                 network: Network) -> None:
        """`work` is for sockets, logs and the store; `ram`, on tmpfs, for guest memory."""
        self._guest = guest
        self._programs = programs
        self._work = work
        self._ram = ram
        self._network = network
        self._server = ""

    def run(self, show: Callable[["Demo", Saved], None]) -> None:
        server = [*self._network.a.prefix, str(self._programs / "thaw-pageserver"), "--insecure",
                  "--store", str(self._work / "store"), "--listen", f"{self._network.a.address}:0"]
        with daemon(server, "listening on", self._work / "pageserver.log") as self._server:
            saved = self._snapshot()
            self._push()
            show(self, saved)

    def restore(self, saved: Saved) -> Restore:
        """Restores the guest twice, the second time with what was recorded the first time."""
        say(f"restoring it on another host, over {self._network.link}; what it touches is "
            "recorded")
        self._say_of(saved, self._restore_lazily(saved, "first"))
        say("restoring it once more: now it has a working set")
        lazy = self._restore_lazily(saved, "second")
        self._say_of(saved, lazy)
        return lazy

    def compare(self, saved: Saved) -> None:
        lazy = self.restore(saved)
        say("restoring it once more, by downloading it first")
        print_comparison(lazy, self._restore_by_download(saved))

    def share(self, saved: Saved) -> None:
        """Restores the guest three times on one host, and a VM of our own twice, all of which
        share what the first one brings."""
        say(f"restoring it three times on another host, over {self._network.link}; the three share "
            "one copy of its memory")
        with self._handler("shared"), contextlib.ExitStack() as vms:
            for number in range(1, _CLONES + 1):
                vm, report = self._restore_shared(saved, f"clone{number}")
                vms.callback(vm.close)
                say(f"clone {number} went on with tick {saved.last.number + 1} "
                    f"{report['seconds']:.2f} s after the command, with {report['faults']} faults "
                    f"and {report['bytes'] / _MIB:.1f} MiB over the network")
                if number > 1 and report["faults"] > report["present"] // 100:
                    raise DemoError("the clones do not share their memory")
            self._share_microvm()

    def _say_of(self, saved: Saved, restore: Restore) -> None:
        say(f"it went on with tick {saved.last.number + 1} and the same checksum "
            f"{restore.first_line_seconds:.2f} s after the command; {restore.report}")

    def _thaw(self, host: Host, *arguments: str) -> Any:
        return json.loads(run([*host.prefix, str(self._programs / "thaw"), "--json", "--insecure",
                               "--server", self._server, "--control", self._control, *arguments]))

    @property
    def _control(self) -> str:
        return str(self._work / "control.sock")

    def _new_memory(self, name: str) -> Path:
        """A sparse file for QEMU to map as guest memory."""
        path = self._ram / name
        with path.open("xb") as file:
            file.truncate(self._guest.memory_mib * _MIB)
        return path

    def _snapshot(self) -> Saved:
        """Boots the guest, lets it work, and leaves its memory and state in files."""
        say(f"booting a Linux guest with {self._guest.memory_mib} MiB of memory")
        vm = Qemu(self._new_memory("memory"), self._work / "original.log",
                  boot_arguments(self._guest), self._network.a.prefix)
        try:
            # The guest sleeps after a line, so this stops it between two.
            vm.console.wait_for_ticks(_TICKS_BEFORE, _BOOT_SECONDS)
            vm.save(self._ram / "state")
            ticks, unfinished_line = vm.console.finish(_RESTORE_SECONDS)
        finally:
            vm.close()
        check_order(1, ticks[0].checksum, ticks)
        say(f"stopped it at tick {ticks[-1].number}, checksum {ticks[-1].checksum}")
        return Saved(ticks[-1], unfinished_line)

    def _push(self) -> None:
        memory, state = self._ram / "memory", self._ram / "state"
        started = time.monotonic()
        pushed = self._thaw(self._network.a, "push", "demo", "--memory", str(memory), "--state",
                            str(state), "--label", "made-by=demo")
        say(f"pushed it in {time.monotonic() - started:.1f} s: {pushed['new_pages']} pages stored "
            f"in {pushed['new_chunk_bytes'] / _MIB:.0f} MiB, {pushed['zero_pages']} zero, "
            f"{pushed['duplicate_pages']} duplicate")
        memory_copy, state_copy = self._ram / "memory.pulled", self._ram / "state.pulled"
        self._thaw(self._network.a, "pull", "demo", "--memory", str(memory_copy), "--state",
                   str(state_copy))
        digest = sha256(memory)
        if sha256(memory_copy) != digest or sha256(state_copy) != sha256(state):
            raise DemoError("the pulled snapshot is not the one that was pushed")
        say(f"pulled it back byte-identical (sha256 {digest[:16]}...); deleting all local copies")
        for path in (memory, state, memory_copy, state_copy):
            path.unlink()

    def _handler(self, name: str) -> contextlib.AbstractContextManager[str]:
        command = [*self._network.b.prefix, str(self._programs / "thaw-faulthandler"),
                   "--insecure", "--server", self._server, "--control", self._control]
        return daemon(command, "ready on", self._work / f"{name}.faulthandler.log")

    def _restore_shared(self, saved: Saved, name: str) -> tuple[Qemu, dict[str, Any]]:
        """A guest that goes on, and what that took."""
        host = self._network.b
        memory, state = self._new_memory(name), self._ram / f"{name}.state"
        session = self._work / f"{name}.sock"
        bytes_before = host.bytes_over_network()
        started = time.monotonic()
        prepared = self._thaw(host, "prepare", "demo", "--shared", "--allow-root-vmm", "--socket",
                              str(session), "--state-out", str(state))
        vm = self._restoring_qemu(memory, saved, {**self._preload(memory, session),
                                                  "THAW_QEMU_SHARED": "1"}, share=False)
        try:
            first = self._go_on(vm, state, saved)
            served = self._session(host, prepared)
        except BaseException:
            vm.close()
            raise
        return vm, {"seconds": first.seconds - started, "faults": served["faults"]["total"],
                    "present": served["present_pages"],
                    "bytes": host.bytes_over_network() - bytes_before}

    def _share_microvm(self) -> None:
        """The lines of a VM that is captured and restored are those of one that is not."""
        a, b = self._network.a, self._network.b
        memory, state = self._ram / "microvm.memory", self._ram / "microvm.state"
        whole = self._microvm(a, "run", *_MICROVM, "--rounds", str(_ROUNDS))
        before = self._microvm(a, "run", *_MICROVM, "--capture-memory", str(memory),
                               "--capture-state", str(state), "--capture-after",
                               str(_ROUNDS // 2))
        self._thaw(a, "push", "microvm", "--memory", str(memory), "--state", str(state))
        for number in range(1, _CLONES):
            session, restored = self._work / f"microvm{number}.sock", self._ram / "restored.state"
            prepared = self._thaw(b, "prepare", "microvm", "--shared", "--allow-root-vmm",
                                  "--socket", str(session), "--state-out", str(restored))
            after = self._microvm(b, "restore", "--shared", "--socket", str(session), "--state",
                                  str(restored), "--rounds", str(_ROUNDS))
            if before + after != whole:
                raise DemoError("the microVM did not go on as it would have without a restore")
            faults = self._session(b, prepared)["faults"]["total"]
            say(f"microVM {number} went on in its round {_ROUNDS // 2 + 1} and printed the same "
                f"checksums as one that was never stopped, with {faults} faults")

    def _session(self, host: Host, prepared: Mapping[str, Any]) -> dict[str, Any]:
        [session] = [each for each in self._thaw(host, "ps")["sessions"]
                     if each["session"] == prepared["session"]]
        return session

    def _microvm(self, host: Host, *arguments: str) -> str:
        return run([*host.prefix, str(self._programs / "thaw-microvm"), *arguments])

    def _preload(self, memory: Path, session: Path) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._programs / "thaw-qemu.so"),
                "THAW_QEMU_MEMORY": str(memory), "THAW_QEMU_SOCKET": str(session)}

    def _restore_lazily(self, saved: Saved, name: str) -> Restore:
        """A fault handler that ends brings its recording to the page server before."""
        host = self._network.b
        with self._handler(name):
            memory, state = self._new_memory(name), self._ram / f"{name}.state"
            session = self._work / "vm.sock"
            bytes_before = host.bytes_over_network()
            started = time.monotonic()
            self._thaw(host, "prepare", "demo", "--socket", str(session), "--state-out",
                       str(state))
            vm = self._restoring_qemu(memory, saved, self._preload(memory, session))
            try:
                first = self._go_on(vm, state, saved)
                network_bytes = host.bytes_over_network() - bytes_before
                [served] = self._thaw(host, "ps")["sessions"]
            finally:
                vm.close()
        faults, prefetch = served["faults"], served["prefetch"]
        report = (f"{faults['total']} faults, answered in {served['latency_us_p50']:.0f} us "
                  f"(median), {served['latency_us_p99']:.0f} us (99 %); "
                  f"{prefetch['prefetched_pages']} pages came ahead of the guest")
        pages = faults["fetched"] + served["around_pages"] + prefetch["prefetched_pages"]
        return Restore(first.seconds - started, network_bytes, pages, report)

    def _restore_by_download(self, saved: Saved) -> Restore:
        host = self._network.b
        memory, state = self._ram / "downloaded", self._ram / "downloaded.state"
        bytes_before = host.bytes_over_network()
        started = time.monotonic()
        pulled = self._thaw(host, "pull", "demo", "--memory", str(memory), "--state", str(state))
        vm = self._restoring_qemu(memory, saved, {})
        try:
            first = self._go_on(vm, state, saved)
            network_bytes = host.bytes_over_network() - bytes_before
        finally:
            vm.close()
        pages = self._guest.memory_mib * _MIB // _PAGE_BYTES - pulled["zero_pages"]
        return Restore(first.seconds - started, network_bytes, pages)

    def _restoring_qemu(self, memory: Path, saved: Saved, environment: Mapping[str, str],
                        share: bool = True) -> Qemu:
        return Qemu(memory, self._work / f"{memory.name}.log", restore_arguments(),
                    self._network.b.prefix, environment, saved.unfinished_line, share)

    def _go_on(self, vm: Qemu, state: Path, saved: Saved) -> Tick:
        """Lets the restored guest run for some lines and returns the first."""
        vm.restore(state)
        ticks = vm.console.wait_for_ticks(_TICKS_AFTER, _RESTORE_SECONDS)
        check_order(saved.last.number + 1, saved.last.checksum, ticks)
        return ticks[0]


def print_comparison(lazy: Restore, download: Restore) -> None:
    rows = [("", "thaw", "download first"),
            ("first new line after", f"{lazy.first_line_seconds:.2f} s",
             f"{download.first_line_seconds:.2f} s"),
            ("bytes over the network", f"{lazy.network_bytes / _MIB:.1f} MiB",
             f"{download.network_bytes / _MIB:.1f} MiB"),
            ("pages brought", str(lazy.pages), str(download.pages))]
    for heading, left, right in rows:
        print(f"   {heading:<24}{left:>14}{right:>18}", flush=True)


def check_machine(programs: Path, names: Sequence[str]) -> None:
    if os.geteuid() != 0:
        raise DemoError("network namespaces and userfaultfd need root")
    for name in names:
        if not (programs / name).exists():
            raise DemoError(f"{programs / name} is not there; run ./x build")
    if shutil.disk_usage(_TMPFS).free < _TMPFS_MIB * _MIB:
        raise DemoError(f"{_TMPFS} has less than {_TMPFS_MIB} MiB to spare for guest memory")


def show(arguments: argparse.Namespace) -> None:
    programs = arguments.bin.resolve()
    names = ("thaw", "thaw-pageserver", "thaw-faulthandler", "thaw-qemu.so")
    check_machine(programs, (*names, "thaw-microvm") if arguments.shared else names)
    if not any(arguments.cache.glob("guest-*")):
        say(f"making the guest of Debian's kernel, which is kept in {arguments.cache}")
    guest = guests.build(arguments.cache.resolve(), small=arguments.quick)
    work = Path(tempfile.mkdtemp(prefix="thaw-demo-"))
    ram = Path(tempfile.mkdtemp(prefix="thaw-demo-", dir=_TMPFS))
    try:
        with Network() as network:
            if arguments.shared:
                showing = Demo.share
            else:
                showing = Demo.restore if arguments.quick else Demo.compare
            Demo(guest, programs, work, ram, network).run(showing)
    finally:
        shutil.rmtree(ram, ignore_errors=True)
        if arguments.keep:
            say(f"logs and store are in {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)


def interrupt(*_: Any) -> None:
    """Once only: a second signal must not interrupt the clean-up after the first."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./x demo", description=__doc__)
    # From ./x: where the built programs are, and where the guest is kept.
    parser.add_argument("--bin", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="a smaller guest and no comparison")
    parser.add_argument("--shared", action="store_true",
                        help="several restores that share one copy of memory on their host")
    parser.add_argument("--keep", action="store_true", help="leave logs and the store behind")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        show(arguments)
    except KeyboardInterrupt:
        print("demo interrupted", file=sys.stderr)
        return 130
    except (DemoError, ConsoleError, QemuError, ProgramError, GuestBuildError, OSError,
            subprocess.SubprocessError) as error:
        print("demo failed:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
