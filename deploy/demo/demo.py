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
from typing import Any, Iterator, Sequence

import guest as guests
from hosts import RATE, Host, Network
from qemu import MEMORY_MIB, GuestError, Qemu, Tick

_PORT = 7433
_TICKS_BEFORE = 10
_TICKS_AFTER = 10
_BOOT_SECONDS = 60
_RESTORE_SECONDS = 60
_MIB = 1 << 20


class DemoError(RuntimeError):
    """The demo did not show what it is there to show."""


@dataclass(frozen=True)
class Saved:
    """What the guest had said when it was stopped."""

    last: Tick
    unfinished_line: str


@dataclass(frozen=True)
class Restore:
    """The figures of one way to restore."""

    first_line_seconds: float
    network_bytes: int
    pages: int


def say(text: str) -> None:
    print(f"== {text}", flush=True)


def run(*command: str) -> str:
    result = subprocess.run(command, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, timeout=120)
    if result.returncode != 0:
        raise DemoError(f"{' '.join(command[:8])} failed: {result.stderr.strip()[-400:]}")
    return result.stdout


@contextlib.contextmanager
def daemon(command: Sequence[str], ready: str, log: Path) -> Iterator[None]:
    """A daemon from its first line of output to its end by SIGTERM."""
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=errors)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        if not line.startswith(ready):
            raise DemoError(f"{command[0]} did not start: {log.read_text()[-400:]}")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ram_file(directory: Path, name: str) -> Path:
    """A fresh sparse file that QEMU maps as guest memory."""
    path = directory / name
    with path.open("wb") as file:
        file.truncate(MEMORY_MIB * _MIB)
    return path


def check_continuity(saved: Saved, ticks: Sequence[Tick]) -> None:
    expected = list(range(saved.last.number + 1, saved.last.number + 1 + len(ticks)))
    numbers = [tick.number for tick in ticks]
    if numbers != expected:
        raise DemoError(f"the counter stood at {saved.last.number} and went on as {numbers}")
    if any(tick.checksum != saved.last.checksum for tick in ticks):
        raise DemoError("the checksum of the guest's data has changed")


class Demo:
    def __init__(self, arguments: argparse.Namespace, work: Path, network: Network) -> None:
        self._bin = arguments.bin.resolve()
        self._work = work
        self._network = network
        self._guest = guests.build(arguments.cache.resolve())
        self._server = f"{network.a.address}:{_PORT}"

    def thaw(self, host: Host, *arguments: str) -> Any:
        output = run(*host.prefix, str(self._bin / "thaw"), "--json", "--server", self._server,
                     "--control", str(self._work / "control.sock"), *arguments)
        return json.loads(output)

    def snapshot(self) -> Saved:
        """Boots the guest, lets it work, and leaves its memory and state in files."""
        say(f"booting a {MEMORY_MIB} MiB Linux guest")
        vm = Qemu(self._guest, ram_file(self._work, "memory"), self._work, "original")
        try:
            vm.console.wait_for_ticks(_TICKS_BEFORE, _BOOT_SECONDS)
            vm.save(self._work / "state")
            time.sleep(0.1)  # what the guest wrote before it stopped is on its way through a pipe
            saved = Saved(vm.console.ticks()[-1], vm.console.unfinished_line)
        finally:
            vm.close()
        say(f"stopped it at tick {saved.last.number}, checksum {saved.last.checksum}")
        return saved

    def push(self) -> None:
        memory, state = self._work / "memory", self._work / "state"
        started = time.monotonic()
        pushed = self.thaw(self._network.a, "push", "demo", "--memory", str(memory), "--state",
                           str(state), "--label", "made-by=demo")
        seconds = time.monotonic() - started
        say(f"pushed it in {seconds:.1f} s: {pushed['new_pages']} pages stored in "
            f"{pushed['new_chunk_bytes'] / _MIB:.0f} MiB, {pushed['zero_pages']} zero, "
            f"{pushed['duplicate_pages']} duplicate")
        copy, state_copy = self._work / "memory.pulled", self._work / "state.pulled"
        self.thaw(self._network.a, "pull", "demo", "--memory", str(copy), "--state",
                  str(state_copy))
        digest = sha256(memory)
        if sha256(copy) != digest or sha256(state_copy) != sha256(state):
            raise DemoError("the pulled snapshot is not the one that was pushed")
        say(f"pulled it back byte-identical (sha256 {digest[:16]}...), deleting all local copies")
        for path in (memory, state, copy, state_copy):
            path.unlink()

    def restore_lazily(self, saved: Saved) -> Restore:
        host = self._network.b
        handler = [*host.prefix, str(self._bin / "thaw-faulthandler"), "--server", self._server,
                   "--control", str(self._work / "control.sock")]
        with daemon(handler, "ready on", self._work / "faulthandler.log"):
            before = host.bytes_over_network()
            started = time.monotonic()
            memory, state = ram_file(self._work, "lazy"), self._work / "lazy.state"
            session = self._work / "vm.sock"
            self.thaw(host, "prepare", "demo", "--socket", str(session), "--state-out", str(state))
            environment = os.environ | {"LD_PRELOAD": str(self._bin / "thaw-qemu.so"),
                                        "THAW_QEMU_MEMORY": str(memory),
                                        "THAW_QEMU_SOCKET": str(session)}
            vm, ticks = self._run_restored(saved, "lazy", memory, state, environment)
            try:
                [report] = self.thaw(host, "ps")["sessions"]
                moved = host.bytes_over_network() - before
            finally:
                vm.close()
        return Restore(ticks[0].seconds - started, moved, report["faults"]["fetched"])

    def restore_by_download(self, saved: Saved) -> Restore:
        host = self._network.b
        before = host.bytes_over_network()
        started = time.monotonic()
        memory, state = self._work / "downloaded", self._work / "downloaded.state"
        pulled = self.thaw(host, "pull", "demo", "--memory", str(memory), "--state", str(state))
        vm, ticks = self._run_restored(saved, "downloaded", memory, state, dict(os.environ))
        vm.close()
        moved = host.bytes_over_network() - before
        pages = MEMORY_MIB * _MIB // 4096 - pulled["zero_pages"]
        return Restore(ticks[0].seconds - started, moved, pages)

    def _run_restored(self, saved: Saved, name: str, memory: Path, state: Path,
                      environment: dict[str, str]) -> tuple[Qemu, list[Tick]]:
        vm = Qemu(self._guest, memory, self._work, name, arguments=["-incoming", "defer"],
                  prefix=self._network.b.prefix, environment=environment,
                  unfinished_line=saved.unfinished_line)
        try:
            vm.restore(state)
            ticks = vm.console.wait_for_ticks(_TICKS_AFTER, _RESTORE_SECONDS)
            check_continuity(saved, ticks)
        except BaseException:
            vm.close()
            raise
        return vm, ticks

    def run(self, quick: bool) -> None:
        server = [*self._network.a.prefix, str(self._bin / "thaw-pageserver"), "--insecure",
                  "--store", str(self._work / "store"), "--listen", self._server]
        with daemon(server, "listening on", self._work / "pageserver.log"):
            saved = self.snapshot()
            self.push()
            link = f"shaped to {RATE}" if self._network.shaped else "unshaped"
            say(f"restoring it on another host, over a link {link}")
            lazy = self.restore_lazily(saved)
            say(f"it went on at tick {saved.last.number + 1} with the same checksum")
            if quick:
                return
            say("restoring it again, by downloading it first")
            print_comparison(lazy, self.restore_by_download(saved))


def print_comparison(lazy: Restore, download: Restore) -> None:
    rows = [("", "thaw", "download first"),
            ("first new line after", f"{lazy.first_line_seconds:.2f} s",
             f"{download.first_line_seconds:.2f} s"),
            ("bytes over the network", f"{lazy.network_bytes / _MIB:.1f} MiB",
             f"{download.network_bytes / _MIB:.1f} MiB"),
            ("pages fetched", str(lazy.pages), str(download.pages))]
    for heading, left, right in rows:
        print(f"   {heading:<24}{left:>14}{right:>18}", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./x demo", description=__doc__)
    parser.add_argument("--bin", type=Path, required=True, help="directory of the built programs")
    parser.add_argument("--cache", type=Path, required=True, help="where the guest is kept")
    parser.add_argument("--quick", action="store_true", help="leave the comparison out")
    parser.add_argument("--keep", action="store_true", help="leave logs and the store behind")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    # Ends like Ctrl-C, so that everything is cleaned up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    work = Path(tempfile.mkdtemp(prefix="thaw-demo-", dir="/dev/shm"))
    try:
        with Network() as network:
            Demo(arguments, work, network).run(arguments.quick)
    except (DemoError, GuestError, subprocess.SubprocessError, OSError) as error:
        detail = getattr(error, "stderr", None) or ""
        print(f"demo failed: {error} {detail}".strip(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo interrupted", file=sys.stderr)
        return 130
    finally:
        if arguments.keep:
            say(f"logs and store are in {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
