"""Copies files of guest memory so that pages of zeros take no room."""

from pathlib import Path

_PAGE_BYTES = 4096
_READ_BYTES = 1 << 20
_ZEROS = bytes(_READ_BYTES)


def copy_sparse(source: Path, target: Path) -> int:
    """Writes `target` with holes for zero pages and returns how many pages are not zero."""
    nonzero = 0
    with source.open("rb") as read, target.open("xb") as write:
        while block := read.read(_READ_BYTES):
            start = write.tell()
            for offset in range(0, len(block) if block != _ZEROS else 0, _PAGE_BYTES):
                page = block[offset:offset + _PAGE_BYTES]
                if page.count(0) != len(page):
                    write.seek(start + offset)
                    write.write(page)
                    nonzero += 1
            write.seek(start + len(block))
        write.truncate()
    return nonzero
