"""Debian's kernels for the guest: vmlinux out of a bzImage, and the modules we want with their closure."""

from __future__ import annotations

import lzma
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from vmtest import CACHE
from vmtest.apt import Apt


class Kernel(NamedTuple):
    """Where a kernel comes from: a Debian release, and the list of the modules that tests on it need."""

    suite: str
    modules: str


# By how `uname -r` begins; the first is what a machine has unless it says otherwise. 6.12 has rxe, nvmet with tcp, rdma
# and loop, DH-HMAC-CHAP, igb, 9p (its cloud flavour lacks them). 6.1 lacks some, but its BPF verifier is another.
KERNELS = {"6.12": Kernel("trixie", "modules.txt"), "6.1": Kernel("bookworm", "modules-6.1.txt")}
DEFAULT = next(iter(KERNELS))

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


def add(kernel: Kernel, names: list[str], root: Path, vmlinux: Path, log: int) -> str:
    """Unpack the kernel to `vmlinux`, leave in `root` its modules `names` with their closure; return its version."""
    work = vmlinux.with_suffix(".unpacked")
    work.mkdir()
    apt = Apt(CACHE / f"apt-{kernel.suite}", (kernel.suite,), log, host=False)
    apt.run("update")
    package = next(name for name in apt.depends("linux-image-amd64") if name.startswith("linux-image-"))
    apt.run("download", package, cwd=work)
    subprocess.run(["dpkg-deb", "-x", next(work.glob("*.deb")), work], check=True, stdout=log, stderr=log)
    version = package.removeprefix("linux-image-")
    unpack_vmlinux(work / "boot" / f"vmlinuz-{version}", vmlinux)
    (root / "usr/lib/modules").mkdir(exist_ok=True)
    (_modules_below(work) / version).rename(root / "usr/lib/modules" / version)
    keep_only(root, version, names)
    shutil.rmtree(work)
    return version


def _modules_below(unpacked: Path) -> Path:
    merged = unpacked / "usr/lib/modules"
    return merged if merged.exists() else unpacked / "lib/modules"


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
        target = kept / path.resolve().relative_to(modules.resolve())
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".xz":
            target.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
        else:
            shutil.copy(path, target)  # bookworm packs none
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(modules / name, kept / name)
    shutil.rmtree(modules)
    kept.rename(modules)
    subprocess.run(["chroot", str(root), "depmod", version], check=True)
