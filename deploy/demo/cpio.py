"""Writes a Linux initramfs (cpio "newc") without being root and without unpacking to disk."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

_ALIGNMENT = 4


class Archive:
    """One cpio archive being written to `out`. Entries must be added parents first."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._inode = 0

    def add_directory(self, name: str) -> None:
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def add_bytes(self, name: str, content: bytes, mode: int = 0o644) -> None:
        self._add(name, stat.S_IFREG | mode, content)

    def add_file(self, name: str, path: Path) -> None:
        self.add_bytes(name, path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644)

    def add_symlink(self, name: str, target: str) -> None:
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def add_character_device(self, name: str, major: int, minor: int) -> None:
        self._add(name, stat.S_IFCHR | 0o600, b"", (major, minor))

    def finish(self) -> None:
        self._add("TRAILER!!!", 0, b"")

    def _add(self, name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device, special device, name size, unused
        # check. The time is always 0: equal input gives equal archives.
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self._write_padded(header + encoded)
        self._write_padded(content)

    def _write_padded(self, data: bytes) -> None:
        self._out.write(data)
        self._out.write(b"\0" * (-len(data) % _ALIGNMENT))
