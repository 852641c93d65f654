"""A node's NVMe-oF plane over a real target, and the death of a process at any call it makes to the kernel."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fabricbios.daemon import attach
from fabricbios.dataplane.blockpool import BlockPool
from fabricbios.dataplane.extent_journal import ExtentJournal
from fabricbios.dataplane.nvmeof import STEPS, NvmeofPlane
from fabricbios.hw import loop
from fabricbios.hw.backing import open_backing
from fabricbios.hw.configfs import CONFIGFS, Configfs
from fabricbios.hw.nvme_host import Target
from fabricbios.hw.nvmet import Listener, Nvmet
from fabricbios.hw.sysfs import Sysfs
from fabricbios.model import Binding, DpAuth, Perm, ResourceType
from fabricbios.ports import LeaseSpec

MIB = 1 << 20
TREE = CONFIGFS / "nvmet"
TCP = Listener("tcp", "127.0.0.1", 4420)


def lease_of(lease_id: int, size: int = 2 * MIB) -> LeaseSpec:
    """Return a lease with a key of its own."""
    return LeaseSpec(
        lease_id=lease_id,
        resource_id=1,
        kind=ResourceType.BLOCK,
        binding=Binding.NVMEOF,
        size=size,
        holder=0xD00D,
        generation=1,
        dp_auth=DpAuth.HMAC_HEADER,
        dp_key=os.urandom(32),
        rights=Perm.READ | Perm.WRITE,
        expires_ns=0,
        reached="127.0.0.1",
    )


class MortalConfigfs(Configfs):
    """Kills its process right before its `lives`-th change of the tree."""

    def __init__(self, root: Path, lives: int) -> None:
        super().__init__(root)
        self.lives = lives

    def _spend(self) -> None:
        self.lives -= 1
        if self.lives < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def mkdir(self, name: str) -> bool:
        self._spend()
        return super().mkdir(name)

    def rmdir(self, name: str) -> bool:
        self._spend()
        return super().rmdir(name)

    def link(self, name: str, target: str) -> bool:
        self._spend()
        return super().link(name, target)

    def unlink(self, name: str) -> bool:
        self._spend()
        return super().unlink(name)

    def write(self, name: str, value: str) -> None:
        self._spend()
        super().write(name, value)


class Node:
    """What a daemon holds: backing, extent journal, pool, plane. Two cannot live at a time, as two daemons cannot."""

    def __init__(self, directory: Path, disk: Path, *listeners: Listener) -> None:
        self.journal = ExtentJournal(directory / "extents")
        size = None if disk.exists() else 8 * MIB
        self.backing = open_backing(Sysfs(), str(disk), size, ours=self.journal.stores)
        self.pool = BlockPool({1: self.backing}, self.journal, "zero")
        self.nvmet = Nvmet(listeners or (TCP,))
        self.plane = NvmeofPlane(self.pool, self.nvmet)

    def bind(self, lease: LeaseSpec) -> list[Any]:
        return [tlv for step in STEPS for tlv in self.plane.do(step, lease)]

    def unbind(self, lease: LeaseSpec) -> None:
        for step in reversed(STEPS):
            self.plane.undo(step, lease)

    def close(self) -> None:
        self.journal.close()
        self.backing.close()


@contextmanager
def node_at(directory: Path, *listeners: Listener, disk: Path | None = None) -> Iterator[Node]:
    node = Node(directory, disk or directory / "disk", *listeners)
    try:
        yield node
    finally:
        node.close()


def killed_after(lives: int, directory: Path, work: Callable[[Node], object]) -> bool:
    """Do `work` as a node in another process that dies at its `lives`-th change of configfs; False if it survived."""
    child = os.fork()
    if child == 0:
        # Whatever happens here must not come back into pytest.
        code = 1
        try:
            node = Node(directory, directory / "disk")
            node.nvmet.fs = MortalConfigfs(node.nvmet.fs.root, lives)
            work(node)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "the work failed before its time"
    return False


def targets(tlvs: list[Any]) -> list[Target]:
    """Read the binding TLVs as a client does."""
    return attach.targets(tlvs, "")


def tree() -> dict[str, str]:
    """Return the objects, links and attributes of the target, but for what the kernel makes up by itself."""
    found = {}
    for path in sorted(TREE.rglob("*")):
        name = str(path.relative_to(TREE))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[name] = "object"
        elif os.access(path, os.R_OK) and path.stat().st_mode & 0o444:
            found[name] = path.read_text()
    return found


def load_modules() -> None:
    names = ("nvmet", "nvmet_tcp", "nvme_tcp", "nvme_loop", "loop")
    subprocess.run(["modprobe", "-a", *names], check=True)


def nothing_left() -> bool:
    """Say whether no object and no device of ours is there."""
    ports = [name for name in os.listdir(TREE / "ports") if int(name) >= 0xFB00]
    return not ports and not loop.names() and not Nvmet().ours()
