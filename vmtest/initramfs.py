"""The first 4 MB: busybox, the modules that reach the root, and a script that lays a writable overlay over it."""

from __future__ import annotations

from pathlib import Path

from vmtest import cpio
from vmtest.kernel import closure

_MODULES = ["virtio_pci", "virtio_blk", "erofs", "overlay", "9p", "9pnet_virtio"]
_DIRECTORIES = ("bin", "dev", "proc", "sys", "lib", "ro", "rw", "project", "bytecode", "newroot")


def make(root: Path, version: str) -> bytes:
    """Return the initramfs for a guest whose unpacked root, modules included, is at `root`."""
    modules = closure(root, version, _MODULES)
    script = (Path(__file__).parent / "guest" / "initramfs-init").read_bytes()
    files: dict[str, bytes | Path] = {"init": script, "bin/busybox": root / "usr/bin/busybox"}
    files["lib/order"] = "".join(path.name + "\n" for path in modules).encode()
    files |= {f"lib/{path.name}": path for path in modules}
    return cpio.archive(_DIRECTORIES, files)


def module_names() -> list[str]:
    """Return what the root must hold so that `make` finds it."""
    return list(_MODULES)
