"""The state directory: ours alone, private, and writable, or one clear line why not."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from fabricbios.errors import ConfigError, FabricError


class AlreadyRunning(FabricError):
    """Another daemon holds this state directory or its ports."""


class StateDir:
    """A locked directory of mode 0700. The lock is the kernel's: it goes with the process, however it dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def acquire(self) -> None:
        """Make and lock it. ConfigError if it cannot be written, AlreadyRunning if another has it."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise ConfigError(f"state-dir {self.path}: {e.strerror}: name a writable one with --state-dir") from None
        self._make_private()
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._fd, 32).decode(errors="replace").strip()
            os.close(self._fd)
            self._fd = -1
            raise AlreadyRunning(f"state-dir {self.path} is in use by process {holder or '?'}") from None
        os.ftruncate(self._fd, 0)
        os.write(self._fd, b"%d\n" % os.getpid())

    def _make_private(self) -> None:
        """What another user owns it may change at any time, mode 0700 or not: its keys are not ours alone."""
        found = self.path.stat()
        owner = found.st_uid
        if owner not in (0, os.geteuid()):
            os.close(self._fd)
            self._fd = -1
            remedy = f"chown {os.geteuid()} {self.path}, or run as that user"
            raise ConfigError(f"state-dir {self.path} belongs to user {owner}: {remedy}")
        if found.st_mode & 0o077:
            os.chmod(self.path, 0o700)

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self, name: str) -> bytes | None:
        """Return a small file's bytes, None if there is none."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Replace a small file atomically and durably, mode 0600."""
        fresh = self.path / f".{name}.new"
        with open(fresh, "wb", opener=lambda p, f: os.open(p, f, 0o600)) as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        fresh.rename(self.path / name)
