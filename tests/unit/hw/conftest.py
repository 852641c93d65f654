"""A machine made of files."""

import os
from pathlib import Path

import pytest

from fabricbios.hw.sysfs import Sysfs


class Tree:
    """A fake root. Symlinks are written relative, as sysfs has them, so that they stay inside."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def fs(self) -> Sysfs:
        return Sysfs(self.root)

    def put(self, name: str, content: str | bytes = "") -> Path:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def fill(self, at: str, **files: object) -> None:
        """Write files of one directory; a trailing newline each, as sysfs does."""
        for name, content in files.items():
            self.put(f"{at}/{name}", f"{content}\n")

    def directory(self, name: str) -> None:
        (self.root / name.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def link(self, name: str, target: str) -> None:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        to = self.root / target.lstrip("/")
        # As kernfs_get_target_path() does it: never just "..", the target's own name always stands last.
        path.symlink_to(os.path.join(os.path.relpath(to.parent, path.parent), to.name))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)
