"""Boots the demo's guest, stops it at work and keeps its memory in a file, for benches."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import guest as guests
from console import ConsoleError
from kernel import GuestBuildError
from qemu import Qemu, QemuError, boot_arguments

_TMPFS = Path("/dev/shm")
_TICKS = 10
_BOOT_SECONDS = 90
_MIB = 1 << 20


def make(guest: guests.Guest, out: Path) -> None:
    """Writes the file `out` whole or not at all."""
    with tempfile.TemporaryDirectory(prefix="thaw-image-", dir=_TMPFS) as directory:
        memory = Path(directory) / "memory"
        with memory.open("xb") as file:
            file.truncate(guest.memory_mib * _MIB)
        vm = Qemu(memory, Path(directory) / "log", boot_arguments(guest))
        try:
            # The guest sleeps after a line, so this stops it between two.
            vm.console.wait_for_ticks(_TICKS, _BOOT_SECONDS)
            vm.save(Path(directory) / "state")
        finally:
            vm.close()
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(out.name + ".partial")
        shutil.copyfile(memory, partial)
        os.replace(partial, out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="where the guest is kept")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--small", action="store_true", help="the guest of a quick run")
    arguments = parser.parse_args()
    try:
        guest = guests.build(arguments.cache.resolve(), small=arguments.small)
        make(guest, arguments.out)
    except (ConsoleError, QemuError, GuestBuildError, OSError,
            subprocess.SubprocessError) as error:
        print("no image could be made:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
