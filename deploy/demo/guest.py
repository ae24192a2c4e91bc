"""Builds the demo's guest: Debian's cloud kernel and an initramfs with the workload, cached."""

import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cpio import Archive

_HERE = Path(__file__).parent
_KERNEL_METAPACKAGE = "linux-image-cloud-amd64"

# The last four shorten the boot under emulation. init_on_free leaves zeros where the unpacked
# initramfs was; otherwise it stays behind as 90 MiB of equal filler pages, and every comparison
# with a download would look better than it is.
_KERNEL_ARGUMENTS = ("console=ttyS0 quiet loglevel=0 init_on_free=1 init_on_alloc=0 "
                     "cryptomgr.notests mitigations=off tsc=reliable audit=0")


@dataclass(frozen=True)
class Guest:
    """What QEMU needs to boot it."""

    kernel: Path
    initramfs: Path
    memory_mib: int
    arguments: str = _KERNEL_ARGUMENTS


class GuestBuildError(RuntimeError):
    """The guest could not be built here."""


def _output(*command: str, cwd: Path | None = None) -> str:
    result = subprocess.run(command, text=True, cwd=cwd, stdin=subprocess.DEVNULL,
                            capture_output=True, timeout=240)
    if result.returncode != 0:
        raise GuestBuildError(f"{' '.join(command[:4])} failed: {result.stderr.strip()[-400:]}")
    return result.stdout


def _kernel_package() -> str:
    """The name of the package that holds the kernel itself."""
    for line in _output("apt-cache", "depends", "--important", _KERNEL_METAPACKAGE).splitlines():
        words = line.split()
        if words[0] == "Depends:" and words[1].startswith("linux-image-"):
            return words[1]
    raise GuestBuildError(f"apt does not know {_KERNEL_METAPACKAGE}; run apt-get update")


def _kernel_archive(cache: Path) -> Path:
    """The kernel's .deb in `cache`. Once it is there apt and the network are not needed."""
    kept = sorted(cache.glob("linux-image-*.deb"))
    if not kept:
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            # apt would drop its rights to a user who may not enter every directory.
            _output("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download",
                    _kernel_package(), cwd=Path(temporary))
            [downloaded] = Path(temporary).glob("*.deb")
            kept = [downloaded.rename(cache / downloaded.name)]
    return kept[-1]


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


def _build(out: Path, work: Path, kernel_archive: Path) -> None:
    root, workload = work / "root", work / "workload"
    _output("dpkg", "-x", str(kernel_archive), str(root))
    _output("g++", "-std=c++20", "-O2", "-static", "-s", "-o", str(workload),
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
    kernel_archive = _kernel_archive(cache)
    inputs = [kernel_archive, *(_HERE / name for name in ("guest.py", "cpio.py", "workload.cc"))]
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in inputs]
    place = cache / f"guest-{hashlib.sha256(b''.join(digests)).hexdigest()[:16]}"
    if not place.exists():
        for old in cache.glob("guest-*"):
            shutil.rmtree(old)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            built = Path(temporary) / "built"
            _build(built, Path(temporary), kernel_archive)
            built.rename(place)
    if small:
        return Guest(place / "vmlinuz", place / "initramfs.small", 256)
    return Guest(place / "vmlinuz", place / "initramfs", 512)
