"""A file system that hangs, for real: a loop device's ext4 that is frozen (fsfreeze(8))."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facilities import require


class Frozen:
    """A mounted file system that can be frozen: whoever writes to it then waits, and no signal reaches him."""

    def __init__(self, root: Path) -> None:
        self.mount = root / "mount"
        self.mount.mkdir()
        with (root / "image").open("wb") as image:
            image.truncate(48 << 20)
        subprocess.run(["mkfs.ext4", "-q", image.name], check=True)
        done = subprocess.run(["mount", "-o", "loop", image.name, str(self.mount)], capture_output=True, text=True)
        require("loop and ext4", done.returncode == 0, done.stderr)

    def freeze(self) -> None:
        subprocess.run(["fsfreeze", "-f", str(self.mount)], check=True)

    def thaw(self) -> None:
        """Nothing happens if it is not frozen."""
        subprocess.run(["fsfreeze", "-u", str(self.mount)], capture_output=True)


@contextmanager
def frozen_at(root: Path) -> Iterator[Frozen]:
    """Mount one below `root`; at the end it is thawed and gone."""
    require("fsfreeze", bool(shutil.which("fsfreeze") and shutil.which("mkfs.ext4")), "no fsfreeze, no mkfs.ext4")
    made = Frozen(root)
    try:
        yield made
    finally:
        made.thaw()
        subprocess.run(["umount", str(made.mount)], check=True)
