"""What the guests here have in common with the demo's: they use its modules."""

import sys
from pathlib import Path

_DEMO = Path(__file__).resolve().parents[2] / "deploy" / "demo"
sys.path.insert(0, str(_DEMO))

from console import ConsoleError  # noqa: E402
from cpio import Archive  # noqa: E402
from guest import Guest  # noqa: E402
from kernel import KERNEL_ARGUMENTS, GuestBuildError, kernel_archive, output  # noqa: E402
from programs import ProgramError, daemon, run  # noqa: E402
from qemu import Qemu, QemuError, boot_arguments, restore_arguments  # noqa: E402

# The files whose content decides how a guest is built and saved.
SOURCES = [_DEMO / name for name in ("console.py", "cpio.py", "kernel.py", "qemu.py", "qmp.py")]

__all__ = ["Archive", "ConsoleError", "Guest", "GuestBuildError", "KERNEL_ARGUMENTS", "Qemu",
           "ProgramError", "QemuError", "SOURCES", "boot_arguments", "daemon", "kernel_archive",
           "output", "restore_arguments", "run"]
