"""Small private files that a crash never leaves half written."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_new(path: Path, data: bytes) -> bool:
    """Create `path` (0600) with `data`, durable; leave an existing one alone and return False."""
    temporary = _write_temporary(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
        _sync_directory(path.parent)
    return True


def replace(path: Path, data: bytes) -> None:
    """Make `path` (0600) hold `data`: the old content or the new, never a mixture."""
    temporary = _write_temporary(path, data)
    temporary.replace(path)
    _sync_directory(path.parent)


def remove(path: Path) -> None:
    """Unlink `path` for good: it does not come back after a power cut."""
    path.unlink()
    _sync_directory(path.parent)


def _write_temporary(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()  # left by a process of this number that was killed
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink()
        raise
    return temporary


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
