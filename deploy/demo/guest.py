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


@dataclass(frozen=True)
class Guest:
    kernel: Path
    initramfs: Path


def _output(*command: str, cwd: Path | None = None) -> str:
    return subprocess.run(command, check=True, text=True, cwd=cwd, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE).stdout


def _kernel_package() -> str:
    """The package that holds the kernel itself, as NAME=VERSION."""
    for line in _output("apt-cache", "depends", "--important", _KERNEL_METAPACKAGE).splitlines():
        if line.strip().startswith("Depends: linux-image-"):
            name = line.split()[1]
            for field in _output("apt-cache", "show", "--no-all-versions", name).splitlines():
                if field.startswith("Version: "):
                    return f"{name}={field.split()[1]}"
    raise RuntimeError(f"{_KERNEL_METAPACKAGE} is not known here; run apt-get update")


def _build_initramfs(out: Path, workload: Path, modules: Path) -> None:
    """The workload as init, and the kernel's modules as real file content for its memory."""
    with out.open("wb") as file:
        archive = Archive(file)
        for name in ("dev", "lib", "lib/modules"):
            archive.add_directory(name)
        archive.add_character_device("dev/console", 5, 1)
        archive.add_file("init", workload)
        for path in sorted(modules.rglob("*")):
            name = f"lib/modules/{path.relative_to(modules)}"
            if path.is_symlink():
                continue
            if path.is_dir():
                archive.add_directory(name)
            else:
                archive.add_file(name, path)
        archive.finish()


def build(cache: Path) -> Guest:
    """The guest from `cache`; built there first when any of its inputs has changed."""
    package = _kernel_package()
    inputs = [package.encode()] + [
        (_HERE / name).read_bytes() for name in ("guest.py", "cpio.py", "workload.cc")]
    key = hashlib.sha256(b"\0".join(inputs)).hexdigest()[:16]
    place = cache / f"guest-{key}"
    guest = Guest(place / "vmlinuz", place / "initramfs")
    if place.exists():
        return guest
    cache.mkdir(parents=True, exist_ok=True)
    for old in cache.glob("guest-*"):
        shutil.rmtree(old)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        work = Path(temporary)
        # apt drops its rights to a user who may not enter every directory; the archive is small.
        _output("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package, cwd=work)
        [deb] = work.glob("*.deb")
        _output("dpkg", "-x", str(deb), str(work / "root"))
        _output("g++", "-std=c++20", "-O2", "-static", "-o", str(work / "workload"),
                str(_HERE / "workload.cc"))
        built = work / "built"
        built.mkdir()
        [kernel] = (work / "root/boot").glob("vmlinuz-*")
        kernel.rename(built / "vmlinuz")
        _build_initramfs(built / "initramfs", work / "workload", work / "root/lib/modules")
        built.rename(place)
    return guest
