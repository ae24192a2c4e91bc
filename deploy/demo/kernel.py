"""Debian's cloud kernel for guests, kept in a cache."""

import subprocess
import tempfile
from pathlib import Path

_METAPACKAGE = "linux-image-cloud-amd64"

# The last four shorten the boot under emulation. init_on_free leaves zeros where the unpacked
# initramfs was; otherwise it stays behind as 90 MiB of equal filler pages, and every comparison
# with a download would look better than it is.
KERNEL_ARGUMENTS = ("console=ttyS0 quiet loglevel=0 init_on_free=1 init_on_alloc=0 "
                    "cryptomgr.notests mitigations=off tsc=reliable audit=0")


class GuestBuildError(RuntimeError):
    """The guest could not be built here."""


def output(*command: str, cwd: Path | None = None, seconds: float = 240) -> str:
    """The output of a command that has to succeed."""
    result = subprocess.run(command, text=True, cwd=cwd, stdin=subprocess.DEVNULL,
                            capture_output=True, timeout=seconds)
    if result.returncode != 0:
        raise GuestBuildError(f"{' '.join(command[:4])} failed: {result.stderr.strip()[-400:]}")
    return result.stdout


def kernel_archive(cache: Path) -> Path:
    """The kernel's .deb in `cache`. Once it is there apt and the network are not needed."""
    kept = sorted(cache.glob("linux-image-*.deb"))
    if not kept:
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            # apt would drop its rights to a user who may not enter every directory.
            output("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", _package(),
                   cwd=Path(temporary))
            [downloaded] = Path(temporary).glob("*.deb")
            kept = [downloaded.rename(cache / downloaded.name)]
    return kept[-1]


def _package() -> str:
    """The name of the package that holds the kernel itself."""
    for line in output("apt-cache", "depends", "--important", _METAPACKAGE).splitlines():
        words = line.split()
        if words[0] == "Depends:" and words[1].startswith("linux-image-"):
            return words[1]
    raise GuestBuildError(f"apt does not know {_METAPACKAGE}; run apt-get update")
