"""Debian's kernel for the guest: vmlinux out of its bzImage, and the modules we want with their closure."""

from __future__ import annotations

import lzma
import shutil
import subprocess
from pathlib import Path

# What scripts/extract-vmlinux of the kernel looks for, with what unpacks it.
_PACKED = (
    (b"\x28\xb5\x2f\xfd", ["zstd", "-dcq"]),
    (b"\xfd7zXZ\0", ["xz", "-dcq"]),
    (b"\x1f\x8b\x08", ["gzip", "-dcq"]),
)


def unpack_vmlinux(bzimage: Path, vmlinux: Path) -> None:
    """Write the ELF kernel hidden in `bzimage`: QEMU starts it through PVH, which saves real-mode set-up under TCG.

    Raises ValueError where no compressed ELF image is found. Trailing bytes are expected, so exit codes are not asked.
    """
    image = bzimage.read_bytes()
    for magic, command in _PACKED:
        at = image.find(magic)
        while at != -1:
            unpacked = subprocess.run(command, input=image[at:], capture_output=True).stdout
            if unpacked.startswith(b"\x7fELF"):
                vmlinux.write_bytes(unpacked)
                return
            at = image.find(magic, at + 1)
    raise ValueError(f"{bzimage}: no compressed vmlinux inside")


def closure(root: Path, version: str, names: list[str]) -> list[Path]:
    """Return the module files that loading `names` takes, in loading order, as kmod of the guest's root sees it.

    Names that are built in need none; an unknown name raises ValueError.
    """
    files: dict[Path, None] = {}
    for name in names:
        command = ["chroot", str(root), "modprobe", "-S", version, "--show-depends", name]
        answer = subprocess.run(command, capture_output=True, text=True)
        if answer.returncode:
            raise ValueError(f"module {name}: {answer.stderr.strip()}")
        for line in answer.stdout.splitlines():
            words = line.split()
            if words[0] == "insmod":
                files[root / words[1].lstrip("/")] = None
    return list(files)


def keep_only(root: Path, version: str, names: list[str]) -> None:
    """Reduce the modules below `root` to the closure of `names`, unpacked: xz under TCG costs more than disk."""
    modules = root / "usr/lib/modules" / version
    subprocess.run(["chroot", str(root), "depmod", version], check=True)
    wanted = closure(root, version, names)
    kept = root / "usr/lib/modules" / f"{version}.kept"
    for path in wanted:
        target = kept / path.resolve().relative_to(modules.resolve()).with_suffix("")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(lzma.decompress(path.read_bytes()))
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(modules / name, kept / name)
    shutil.rmtree(modules)
    kept.rename(modules)
    subprocess.run(["chroot", str(root), "depmod", version], check=True)
