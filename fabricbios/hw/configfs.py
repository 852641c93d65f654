"""A driver for configfs: objects are directories, attributes are files, relations are symlinks.

Making what is there and removing what is gone are no errors (the answer says which it was), because a step may
have half happened before. Every other failure is an OSError with errno and path. An attribute is one write(2): the
kernel takes each as a whole value (Documentation/filesystems/configfs.rst).
"""

from __future__ import annotations

import os
from pathlib import Path

MAX_ATTRIBUTE = 4096  # configfs hands over one page
CONFIGFS = Path("/sys/kernel/config")


class Configfs:
    """The tree below `root`; names are relative to it. Tests hand in a plain directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def exists(self, name: str) -> bool:
        """Say whether an object, attribute or link is there; a dangling link is."""
        return os.path.lexists(self.root / name)

    def names(self, name: str) -> tuple[str, ...]:
        """Return what is in a directory, () where there is none."""
        try:
            return tuple(sorted(os.listdir(self.root / name)))
        except FileNotFoundError:
            return ()

    def mkdir(self, name: str) -> bool:
        """Make an object; return False if it was there. One level: the kernel makes the groups above."""
        try:
            os.mkdir(self.root / name)
        except FileExistsError:
            return False
        return True

    def rmdir(self, name: str) -> bool:
        """Remove an object; return False if it was gone. OSError(EBUSY) while another object links to it."""
        try:
            os.rmdir(self.root / name)
        except FileNotFoundError:
            return False
        return True

    def link(self, name: str, target: str) -> bool:
        """Relate `name` to the object `target`; return False if that link was there."""
        try:
            os.symlink(self.root / target, self.root / name)
        except FileExistsError:
            return False
        return True

    def unlink(self, name: str) -> bool:
        """Take a relation back; return False if it was gone."""
        try:
            os.unlink(self.root / name)
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str) -> str:
        """Return an attribute without its newline."""
        fd = self._open(name, os.O_RDONLY)
        try:
            return os.read(fd, MAX_ATTRIBUTE).decode("utf-8", "replace").rstrip("\n")
        except OSError as error:
            raise self._located(error, name) from None
        finally:
            os.close(fd)

    def write(self, name: str, value: str) -> None:
        """Set an attribute. The value never stands in the error: it may be a secret."""
        fd = self._open(name, os.O_WRONLY)
        try:
            os.write(fd, value.encode())
        except OSError as error:
            raise self._located(error, name) from None
        finally:
            os.close(fd)

    def _open(self, name: str, mode: int) -> int:
        return os.open(self.root / name, mode | os.O_CLOEXEC)

    def _located(self, error: OSError, name: str) -> OSError:
        """os.read and os.write know only a number: add the path."""
        return OSError(error.errno, error.strerror, str(self.root / name))
