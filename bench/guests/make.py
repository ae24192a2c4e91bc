"""Boots real Linux guests at work and saves each: the input of the benches that restore.

Each becomes a directory with `memory`, `state`, `disk` and `guest.json`; see restore.py.
"""

import argparse
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import packages
from catalog import GUESTS, Spec
from disk import WORKLOADS, make_boot, make_disk, qemu_arguments
from pages import copy_sparse
from restore import DESCRIPTION, ENDS_WITH_US, TMPFS, SavedGuest, ask_restored, request
from shared import (SOURCES, ConsoleError, GuestBuildError, Qemu, QemuError, boot_arguments,
                    kernel_archive, output)

_HERE = Path(__file__).parent
_BUSYBOX = "busybox-static"
_READY_SECONDS = 240
# The code of a request has run before the guest is saved, on other data than later requests use.
_WARM_UP_SEEDS = range(1, 7)
_NEW_SEEDS = range(101, 107)
# What a guest is made by; the rest of this folder only uses it.
_MADE_BY = ("catalog.py", "disk.py", "init.sh", "make.py", "packages.py")
# After its last request a guest finishes what it does in the background, as an idle one would have.
_SETTLE_SECONDS = 1
_MIB = 1 << 20


class Maker:
    """Makes the guest `name` below `out`."""

    def __init__(self, name: str, spec: Spec, cache: Path, out: Path) -> None:
        self._name = name
        self._spec = spec
        self._out = out
        self._kernel = kernel_archive(cache)
        self._busybox = packages.fetch(cache, [_BUSYBOX])
        self._packages = packages.fetch(cache, [_BUSYBOX, *spec.packages])

    def make(self) -> None:
        """Whole or not at all; nothing to do if it is there and made of the same."""
        digest, place = self._digest(), self._out / self._name
        description = place / DESCRIPTION
        if description.exists() and json.loads(description.read_text())["digest"] == digest:
            print(f"{self._name}: is there")
            return
        with tempfile.TemporaryDirectory(prefix=f".{self._name}-", dir=self._out) as temporary:
            made, work = Path(temporary, "made"), Path(temporary, "work")
            made.mkdir()
            work.mkdir()
            self._build(SavedGuest(made, digest, self._spec.memory_mib, 0, {}), work)
            if place.exists():
                place.rename(Path(temporary, "old"))
            made.rename(place)

    def _digest(self) -> str:
        digest = hashlib.sha256(output("qemu-system-x86_64", "--version").encode())
        digest.update(self._name.encode())
        workload = [WORKLOADS / name for name in self._spec.files]
        for path in [*(_HERE / name for name in _MADE_BY), *SOURCES, *workload]:
            digest.update(path.read_bytes())
        # A package's file is named after its version.
        for path in [self._kernel, *self._packages]:
            digest.update(path.name.encode())
        return digest.hexdigest()[:16]

    def _build(self, saved: SavedGuest, work: Path) -> None:
        started = time.monotonic()
        make_disk(self._spec, self._packages, work, saved.disk)
        boot = make_boot(self._spec, self._kernel, self._busybox, work)
        built = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="thaw-guest-", dir=TMPFS) as ram:
            memory = Path(ram, "memory")
            with memory.open("xb") as file:
                file.truncate(saved.memory_mib * _MIB)
            vm = Qemu(memory, work / "log", [*boot_arguments(boot), *qemu_arguments(saved.disk)],
                      ENDS_WITH_US)
            try:
                vm.console.wait_for_line("ready", _READY_SECONDS)
                ready = time.monotonic()
                served = [request(vm, seed) for seed in _WARM_UP_SEEDS]
                time.sleep(_SETTLE_SECONDS)
                vm.save(saved.state)
            finally:
                vm.close()
            saved = replace(saved, nonzero_pages=copy_sparse(memory, saved.memory))
        saved = self._check(saved, served[-1].result)
        saved.describe()
        print(f"{self._name}: disk built in {built - started:.0f} s, ready after "
              f"{ready - built:.0f} s, requests take {served[-1].seconds:.2f} s, all took "
              f"{time.monotonic() - started:.0f} s; {saved.nonzero_pages} pages are not zero",
              flush=True)

    def _check(self, saved: SavedGuest, last_result: str) -> SavedGuest:
        """The guest with answers to keep; restored, it has to repeat the original's last one."""
        repeated, *new = ask_restored(saved, [_WARM_UP_SEEDS[-1], *_NEW_SEEDS])
        if repeated.result != last_result:
            raise GuestBuildError(f"{self._name} answered {last_result} and, restored, "
                                  f"{repeated.result}")
        answers = {seed: answer.result for seed, answer in zip(_NEW_SEEDS, new)}
        if len(set(answers.values())) != len(answers):
            raise GuestBuildError(f"{self._name} gives the same answer to different requests: "
                                  f"{', '.join(answers.values())}")
        return replace(saved, answers=answers)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="where packages are kept")
    parser.add_argument("--out", type=Path, required=True, help="where the guests go")
    parser.add_argument("--only", nargs="+", choices=GUESTS, default=list(GUESTS), metavar="NAME",
                        help=f"only these of {', '.join(GUESTS)}")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("interrupted"))
    cache, out = arguments.cache.resolve(), arguments.out.resolve()
    try:
        for directory in (cache, out):
            directory.mkdir(parents=True, exist_ok=True)
        for name in arguments.only:
            Maker(name, GUESTS[name], cache, out).make()
    except (ConsoleError, QemuError, GuestBuildError, OSError,
            subprocess.SubprocessError) as error:
        print("no guest could be made:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
