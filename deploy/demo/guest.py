"""Builds the demo's guest: Debian's cloud kernel and an initramfs with the workload, cached."""

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cpio import Archive
from kernel import KERNEL_ARGUMENTS, kernel_archive, output

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Guest:
    """What QEMU needs to boot it."""

    kernel: Path
    initramfs: Path
    memory_mib: int
    arguments: str = KERNEL_ARGUMENTS


def _build_initramfs(out: Path, workload: Path, root: Path, content: Path) -> None:
    """The workload as init, and the files below `content` as what fills the guest's memory."""
    with out.open("wb") as file:
        archive = Archive(file)
        archive.add_directory("dev")
        archive.add_character_device("dev/console", 5, 1)
        archive.add_file("init", workload)
        for parent in reversed(content.relative_to(root).parents[:-1]):
            archive.add_directory(str(parent))
        for path in [content, *sorted(content.rglob("*"))]:
            name = str(path.relative_to(root))
            if path.is_symlink():
                continue
            if path.is_dir():
                archive.add_directory(name)
            else:
                archive.add_file(name, path)
        archive.finish()


def _build(out: Path, work: Path, kernel_package: Path) -> None:
    root, workload = work / "root", work / "workload"
    output("dpkg", "-x", str(kernel_package), str(root))
    output("g++", "-std=c++20", "-O2", "-static", "-s", "-o", str(workload),
           str(_HERE / "workload.cc"))
    out.mkdir()
    [kernel] = (root / "boot").glob("vmlinuz-*")
    kernel.rename(out / "vmlinuz")
    modules = root / "lib/modules"
    [file_systems] = modules.glob("*/kernel/fs")
    _build_initramfs(out / "initramfs", workload, root, modules)
    _build_initramfs(out / "initramfs.small", workload, root, file_systems)


def build(cache: Path, small: bool) -> Guest:
    """The guest from `cache`; built there first when any of its inputs has changed."""
    cache.mkdir(parents=True, exist_ok=True)
    kernel_package = kernel_archive(cache)
    ours = ("guest.py", "kernel.py", "cpio.py", "workload.cc")
    inputs = [kernel_package, *(_HERE / name for name in ours)]
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in inputs]
    place = cache / f"guest-{hashlib.sha256(b''.join(digests)).hexdigest()[:16]}"
    if not place.exists():
        for old in cache.glob("guest-*"):
            shutil.rmtree(old)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            built = Path(temporary) / "built"
            _build(built, Path(temporary), kernel_package)
            built.rename(place)
    if small:
        return Guest(place / "vmlinuz", place / "initramfs.small", 256)
    return Guest(place / "vmlinuz", place / "initramfs", 512)
