"""nvmet's configfs tree played by a plain directory: objects are born with their attributes and groups.

What the kernel enforces and the tests rely on is enforced: no rmdir of an object with children or with links to it.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from fabricbios.hw.configfs import Configfs
from fabricbios.hw.nvmet import Listener, Nvmet

_ATTRIBUTES = {
    "subsystems": {"attr_allow_any_host": "0", "attr_serial": "kernel"},
    "namespaces": {"device_path": "(null)", "device_uuid": "", "enable": "0"},
    "hosts": {"dhchap_key": ""},
    "ports": {"addr_trtype": "", "addr_adrfam": "", "addr_traddr": "", "addr_trsvcid": ""},
    "referrals": {"enable": "0"},
}
_GROUPS = {"subsystems": ("namespaces", "allowed_hosts"), "ports": ("subsystems", "referrals")}


class FakeConfigfs(Configfs):
    """Configfs over a directory that behaves as nvmet does."""

    def mkdir(self, name: str) -> bool:
        made = super().mkdir(name)
        if made:
            kind = Path(name).parent.name
            for attribute, value in _ATTRIBUTES.get(kind, {}).items():
                (self.root / name / attribute).write_text(value + "\n")
            for group in _GROUPS.get(kind, ()):
                (self.root / name / group).mkdir()
        return made

    def rmdir(self, name: str) -> bool:
        path = self.root / name
        if not path.exists():
            return False
        if self._links_to(path) or any(any(group.iterdir()) for group in path.iterdir() if group.is_dir()):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        shutil.rmtree(path)
        return True

    def write(self, name: str, value: str) -> None:
        super().write(name, value)
        os.truncate(self.root / name, len(value.encode()))

    def _links_to(self, path: Path) -> bool:
        links = (entry for entry in self.root.rglob("*") if entry.is_symlink())
        return any(entry.readlink() == path for entry in links)


def fake_nvmet(root: Path, *listeners: Listener) -> Nvmet:
    """Return the driver over a fresh fake tree at `root`."""
    for group in ("subsystems", "hosts", "ports"):
        (root / group).mkdir(parents=True, exist_ok=True)
    nvmet = Nvmet(listeners, root)
    nvmet.fs = FakeConfigfs(root)
    return nvmet


def snapshot(root: Path) -> dict[str, str]:
    """Return every attribute, object and link below `root`, to compare before and after."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = path.read_text() if path.is_file() else "object"
    return found
