"""Write a cpio archive of the "newc" kind, which the kernel unpacks as its initramfs (initramfs buffer format)."""

from __future__ import annotations

import stat
from pathlib import Path


def _entry(number: int, name: str, mode: int, data: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    return header + b"\0" * (-len(header) % 4) + data + b"\0" * (-len(data) % 4)


def archive(directories: tuple[str, ...], files: dict[str, bytes | Path]) -> bytes:
    """Return the archive: directories first, then files, all executable (it is a tool box, not a home)."""
    rows = [(name, stat.S_IFDIR | 0o755, b"") for name in directories]
    for name, content in files.items():
        data = content.read_bytes() if isinstance(content, Path) else content
        rows.append((name, stat.S_IFREG | 0o755, data))
    rows.append(("TRAILER!!!", 0, b""))
    return b"".join(_entry(number, *row) for number, row in enumerate(rows, 1))
