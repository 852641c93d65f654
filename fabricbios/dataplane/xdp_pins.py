"""Where the maps and links of an instance outlive its daemon: `<bpffs>/fabricbios/<instance>/<layout version>`.

    maps/{slots,lease_index,slabs,slab-0,...}   one set, whole or not there
    links/{native,generic}-<ifindex>            one a served interface

Maps are pinned in `making` and the directory renamed when it is whole; before they go it is renamed back. So whatever
moment a daemon is killed in, its successor finds a whole set, which it adopts, or a piece, which it removes. A link
without a pin ends with its daemon, and links go before maps. A set of another layout version was left by another
release and nobody can adopt it: it is removed, and with it its programs leave their interfaces (an upgrade drains).
Programs need no pins: links hold them, and a successor loads its own and swaps them in.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from fabricbios.dataplane.xdp_layout import LAYOUT_VERSION, CounterRecord
from fabricbios.dataplane.xdp_maps import XdpMaps
from fabricbios.errors import LocalMisuse, Unsupported
from fabricbios.hw import bpf

BPFFS = Path("/sys/fs/bpf")


class LinkKey(NamedTuple):
    """One served interface, and how."""

    mode: CounterRecord
    ifindex: int

    def __str__(self) -> str:
        return f"{self.mode.name.lower()}-{self.ifindex}"

    @staticmethod
    def of(name: str) -> LinkKey:
        mode, ifindex = name.split("-")
        return LinkKey(CounterRecord[mode.upper()], int(ifindex))


class Pins:
    """The pins of one instance. `bpffs` is where a BPF file system is mounted."""

    def __init__(self, instance: str, bpffs: Path = BPFFS, version: str = LAYOUT_VERSION) -> None:
        if not instance or set(instance) & set("/."):
            raise LocalMisuse(f"{instance!r} is no name for an instance: bpffs allows neither / nor .")
        self._bpffs, self._instance, self._version = bpffs, bpffs / "fabricbios" / instance, version
        here = self._instance / version
        self._maps, self._making, self._links = here / "maps", here / "making", here / "links"

    def probe(self) -> None:
        """Unsupported where no bpffs is mounted: systemd and people mount it, a daemon has not the right to."""
        if not bpf.is_bpffs(self._bpffs):
            raise Unsupported("pinned BPF objects", f"{self._bpffs} is no bpffs", f"mount -t bpf bpf {self._bpffs}")

    def sweep(self) -> list[str]:
        """Remove what nobody can adopt; return the layout versions of other releases that were among it."""
        found = sorted(self._instance.iterdir()) if self._instance.exists() else []
        others = [p.name for p in found if p.name != self._version]
        for name in others:
            _remove(self._instance / name)
        if self._making.exists():
            shutil.rmtree(self._making)
        if not self._maps.exists():
            _remove(self._instance / self._version)
        return others

    def maps(self) -> XdpMaps | None:
        """Open the set that a predecessor left; None if there is none."""
        return XdpMaps.open(self._maps) if self._maps.exists() else None

    def keep_maps(self, maps: XdpMaps) -> None:
        """Pin a fresh set, whole or not at all."""
        self._making.mkdir(parents=True, mode=0o700)
        maps.pin(self._making)
        os.rename(self._making, self._maps)

    def links(self) -> dict[LinkKey, int]:
        """Open every pinned link."""
        pins = sorted(self._links.iterdir()) if self._links.exists() else []
        return {LinkKey.of(p.name): bpf.obj_get(p) for p in pins}

    def keep_link(self, key: LinkKey, fd: int) -> None:
        self._links.mkdir(parents=True, exist_ok=True, mode=0o700)
        bpf.obj_pin(fd, self._links / str(key))

    def drop_link(self, key: LinkKey) -> None:
        (self._links / str(key)).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all of this instance, and the directory of all instances if it was the last.

        Nothing happens if there is nothing.
        """
        for version in sorted(self._instance.iterdir()) if self._instance.exists() else []:
            _remove(version)
        if self._instance.exists():
            self._instance.rmdir()
        with contextlib.suppress(OSError):  # others are in it, or it was made for us by who may
            self._instance.parent.rmdir()


def _remove(version: Path) -> None:
    """Remove one version's pins: links, then maps, which are no whole set any more from the first moment."""
    if (version / "links").exists():
        shutil.rmtree(version / "links")
    if (version / "maps").exists():
        os.rename(version / "maps", version / "making")
    if version.exists():
        shutil.rmtree(version)
