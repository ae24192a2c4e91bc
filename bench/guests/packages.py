"""Debian packages and all that they depend on, kept in a cache and unpacked without installing.

apt resolves them for a machine that has nothing installed, so what comes out does not depend on
the machine that this runs on; and Debian's own packages go before those of other sources.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Sequence

from shared import output

_DOWNLOAD_SECONDS = 1200
_PREFERENCES = "Package: *\nPin: release o=Debian\nPin-Priority: 990\n"


def fetch(cache: Path, names: Sequence[str]) -> list[Path]:
    """The .debs of these packages. Once they are in `cache`, apt and the network are not needed."""
    archives = cache / "archives"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(" ".join(sorted(names)).encode()).hexdigest()[:16]
    listing = cache / f"packages-{key}"
    kept = [archives / name for name in listing.read_text().split()] if listing.exists() else []
    if kept and all(path.exists() for path in kept):
        return kept
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        install = _apt(Path(temporary), names)
        # Those that are there already would be left out of the list, so it is made as if none was.
        uris = output(*install, "--print-uris", "-o", f"Dir::Cache::archives={temporary}")
        fetched = [archives / line.split()[1] for line in uris.splitlines() if line[:1] == "'"]
        output(*install, "--download-only", "-o", f"Dir::Cache::archives={archives}",
               seconds=_DOWNLOAD_SECONDS)
        new_listing = Path(temporary, "listing")
        new_listing.write_text("".join(f"{path.name}\n" for path in fetched))
        new_listing.rename(listing)
    return fetched


def _apt(work: Path, names: Sequence[str]) -> list[str]:
    """apt-get's command to install them on an empty machine."""
    preferences, none = work / "preferences", work / "none"
    preferences.write_text(_PREFERENCES)
    none.mkdir()
    settings = {"Dir::State::status": "/dev/null", "Dir::Cache": str(work),
                "Dir::Etc::preferences": str(preferences), "Dir::Etc::preferencesparts": str(none),
                "APT::Sandbox::User": "root", "Debug::NoLocking": "true"}
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    return ["apt-get", "-qq", "-y", "--no-install-recommends", *options, "install", *names]


def unpack(archives: Sequence[Path], root: Path) -> None:
    """Their files below `root`. Links stay inside it, so that its programs run from outside too."""
    root.mkdir()
    for archive in archives:
        output("dpkg", "-x", str(archive), str(root))
    for path in root.rglob("*"):
        if path.is_symlink() and os.readlink(path).startswith("/"):
            target = root / os.readlink(path)[1:]
            path.unlink()
            path.symlink_to(os.path.relpath(target, path.parent))
