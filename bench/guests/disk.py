"""Makes what a guest boots from: its read-only disk, its kernel and its initramfs."""

import shutil
from pathlib import Path

import packages
from catalog import Spec
from shared import KERNEL_ARGUMENTS, Archive, Guest, output

_HERE = Path(__file__).parent
WORKLOADS = _HERE / "workloads"
# In the order in which they need each other. ext4 and the serial port are built in.
_MODULES = ("drivers/virtio/virtio_ring.ko", "drivers/virtio/virtio.ko",
            "drivers/virtio/virtio_pci_legacy_dev.ko", "drivers/virtio/virtio_pci_modern_dev.ko",
            "drivers/virtio/virtio_pci.ko", "drivers/block/virtio_blk.ko")
_MOUNT_POINTS = ("dev", "proc", "sys", "tmp")
# Equal trees give file systems with the same identity.
_UUID = "7468617f-0000-4000-8000-000000000000"
_BLOCK_BYTES = 4096
_MIB = 1 << 20


def make_disk(spec: Spec, archives: list[Path], work: Path, disk: Path) -> None:
    """An ext4 file system with the packages' files and, below /guest, ours; needs no root."""
    root = work / "root"
    packages.unpack(archives, root)
    for name in (*_MOUNT_POINTS, "bin", "guest"):
        (root / name).mkdir(exist_ok=True)
    (root / "bin/sh").symlink_to("busybox")
    for name in spec.files:
        shutil.copyfile(WORKLOADS / name, root / "guest" / name)
    run = root / "guest/run"
    run.write_text(f"#!/bin/sh\n{spec.start}\n")
    run.chmod(0o755)
    spec.prepare(root)
    _make_file_system(root, disk)


def _make_file_system(root: Path, disk: Path) -> None:
    blocks = files = 0
    for path in root.rglob("*"):
        blocks += 1 + -(-path.lstat().st_size // _BLOCK_BYTES)
        files += 1
    size_mib = 16 + blocks * _BLOCK_BYTES * 11 // (10 * _MIB)
    options = f"hash_seed={_UUID},lazy_itable_init=0,root_owner=0:0"
    output("env", "E2FSPROGS_FAKE_TIME=1", "mke2fs", "-q", "-t", "ext4", "-O",
           "^has_journal,^resize_inode", "-m", "0", "-b", f"{_BLOCK_BYTES}", "-N",
           f"{files + 256}", "-U", _UUID, "-E", options, "-d", str(root), str(disk),
           f"{size_mib}M")


def make_boot(spec: Spec, kernel_package: Path, busybox: list[Path], work: Path) -> Guest:
    """Kernel and initramfs in `work`. The initramfs is gone from memory once the disk is there."""
    kernel_root, tools = work / "kernel", work / "tools"
    packages.unpack([kernel_package], kernel_root)
    packages.unpack(busybox, tools)
    [kernel] = (kernel_root / "boot").glob("vmlinuz-*")
    [modules] = (kernel_root / "lib/modules").glob("*/kernel")
    initramfs = work / "initramfs"
    with initramfs.open("wb") as file:
        archive = Archive(file)
        for name in ("dev", "bin", "modules", "disk"):
            archive.add_directory(name)
        archive.add_character_device("dev/console", 5, 1)
        archive.add_file("bin/busybox", tools / "bin/busybox")
        archive.add_bytes("init", (_HERE / "init.sh").read_bytes(), 0o755)
        for number, name in enumerate(_MODULES):
            archive.add_file(f"modules/{number}-{Path(name).name}", modules / name)
        archive.finish()
    # A guest whose workload ends panics, and ends QEMU at once.
    return Guest(kernel, initramfs, spec.memory_mib, f"{KERNEL_ARGUMENTS} panic=-1")


def qemu_arguments(disk: Path) -> list[str]:
    """What QEMU needs besides its machine and memory, when booting and when restoring."""
    return ["-drive", f"if=none,id=disk,format=raw,readonly=on,file={disk}", "-device",
            "virtio-blk-pci,drive=disk", "-no-reboot"]
