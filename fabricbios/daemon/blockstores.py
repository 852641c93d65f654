"""The files and devices of `block = [...]`, opened and journaled: what block leases of any binding are carved from.

A setting that cannot be meant stops the start (ConfigError): a path at which nothing ever stood, something that is in
use, or has data on it. A store that was taken before and is missing today is none of that: the others are served, and
it keeps its place, with all that is leased of it, until it is back.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

from fabricbios.daemon.config import Config
from fabricbios.daemon.settings import parse_size
from fabricbios.daemon.storebook import Known, StoreBook
from fabricbios.dataplane.blockpool import BlockPool
from fabricbios.dataplane.extent_journal import ExtentJournal
from fabricbios.errors import ConfigError
from fabricbios.hw.backing import GRANULE, Backing, Wipe, open_backing
from fabricbios.hw.standing import standing_at
from fabricbios.hw.sysfs import Sysfs
from fabricbios.model import Binding, Resource, ResourceType, resource_id_of

log = logging.getLogger("fabricbios.block")
JOURNAL = "extents"  # in the state directory
ABSENCE = frozenset({
    errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT,
    errno.EREMOTEIO, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN,
})  # fmt: skip
"""What opening says of a disk or file system that is not there; anything else is no absence (EACCES, EROFS ...)."""


def split(setting: str) -> tuple[str, int | None]:
    """Return (path, size) of PATH[:SIZE]. A path may hold colons itself (/dev/disk/by-path), so one that exists is
    taken whole. ValueError for a size of zero."""
    path, colon, size = setting.rpartition(":")
    if not colon or os.path.exists(setting):
        return setting, None
    try:
        bytes_ = parse_size(size)
    except ValueError:
        return setting, None
    if not bytes_:
        raise ValueError(f"{setting!r}: nothing to lease")
    return path, bytes_


class Setting(NamedTuple):
    """One of `block = [...]`; `force` where block_force names it, too."""

    path: str
    size: int | None
    force: bool


class BlockStores:
    """All stores of the configuration, or none: opening raises ConfigError or OSError and leaves nothing open."""

    def __init__(self, config: Config, node_id: int) -> None:
        self._node_id = node_id
        self._book = StoreBook(config.state_dir)
        self.journal = ExtentJournal(config.state_dir / JOURNAL)
        self._opened: list[Backing] = []
        try:
            self._configured = self._settings(config)
            self._at = self._all(self._configured)
            self.by_resource = self._by_resource()
            self.pool = BlockPool(self.by_resource, self.journal, cast(Wipe, config.block_wipe))
            self._book.keep({path: known_of(backing) for path, backing in self._at.items()})
        except BaseException:
            self.close()
            raise

    def _settings(self, config: Config) -> list[Setting]:
        """Parse them. The path of a store that is known is taken whole, be it there or not."""
        forced = {Path(path).resolve() for path in config.block_force}
        both = ((text, None) if self._book.at(text) else _parsed(text) for text in config.block)
        return [Setting(path, size, Path(path).resolve() in forced) for path, size in both]

    def _all(self, settings: Sequence[Setting]) -> dict[str, Backing]:
        """Return every store by its path, in the order of the settings: those that are there are found first, because
        what is missing is what none of them is."""
        found: dict[str, Backing] = {}
        missing: dict[str, OSError] = {}
        for setting in settings:
            if setting.path in found or setting.path in missing:
                raise ConfigError(f"block {setting.path} is named twice: take one out")
            try:
                found[setting.path] = self._open(setting)
            except OSError as error:
                if self._book.at(setting.path) is None or error.errno not in ABSENCE:
                    raise
                missing[setting.path] = error
        there = {backing.identity: path for path, backing in found.items()}
        for path, why in missing.items():
            found[path] = self._absent(path, self._book.missing(path, there), why)
        return {setting.path: found[setting.path] for setting in settings}

    def _open(self, setting: Setting) -> Backing:
        """OSError(ENODEV) where something else stands there than did, ENXIO where less than what is leased of it."""
        known = self._book.at(setting.path)
        if known is not None:
            self._must_be_there(setting, known)
        force = setting.force
        backing = open_backing(Sysfs(), setting.path, setting.size, force=force, ours=self.journal.stores)
        if backing.size < self._needed(backing.identity):
            backing.close()
            raise OSError(errno.ENXIO, f"{backing.size} bytes, less than what is leased of it", setting.path)
        self._opened.append(backing)
        if backing.overridden:
            log.warning("leasing %s although: %s (block_force)", setting.path, "; ".join(backing.overridden))
        return backing

    def _must_be_there(self, setting: Setting, known: Known) -> None:
        """Judge what stands at a path before it is opened: it may be anybody's. Nor is a file made a second time, in
        a directory where perhaps a file system is to be mounted."""
        path = setting.path
        found = standing_at(Sysfs(), path)
        if not self._book.has(found):
            if not setting.force:
                raise another(path, known, found.name)
            log.warning("leasing %s (%s), where %s stood before (block_force)", path, found.name, known.name)
        size = os.stat(path).st_size
        if not known.is_device and size < max(setting.size or GRANULE, self._needed(found.identity)):
            raise OSError(errno.ENXIO, f"truncated: it has {size} bytes", path)

    def _needed(self, identity: bytes) -> int:
        """Return where the last extent on a store ends."""
        ends = (placed.base + placed.length for placed in self.journal.extents.values() if placed.store == identity)
        return max(ends, default=0)

    def _absent(self, path: str, known: Known | None, why: OSError) -> Backing:
        if known is None:
            raise ConfigError(f"block {path}: {why.strerror}, and what stood there is at another path of `block`")
        size = max(known.size, self._needed(known.identity))
        kept = known._replace(size=size)
        backing = Backing.absent(path, kept.name, size, kept.is_device, kept.identity, kept.generation, why)
        self._opened.append(backing)
        return backing

    def _by_resource(self) -> dict[int, Backing]:
        found: dict[int, Backing] = {}
        for path, backing in self._at.items():
            resource_id = resource_id_of(self._node_id, ResourceType.BLOCK, backing.name)
            if resource_id in found:
                raise ConfigError(f"block {path} is named twice: take one out")
            found[resource_id] = backing
        return found

    def resources(self, bindings: Sequence[Binding]) -> list[Resource]:
        """Return one resource a store, whole granules of it."""
        return [
            Resource(resource_id, ResourceType.BLOCK, b.size, b.name, tuple(bindings), b.path)
            for resource_id, b in self.by_resource.items()
        ]

    def settings(self) -> dict[int, Setting]:
        """Return resource id -> how it is configured: by that path a store that is gone is looked for."""
        setting_of = {id(self._at[setting.path]): setting for setting in self._configured}
        return {resource_id: setting_of[id(backing)] for resource_id, backing in self.by_resource.items()}

    def close(self) -> None:
        for backing in self._opened:
            backing.close()
        self._opened.clear()
        self.journal.close()


def another(path: str, known: Known, name: str) -> OSError:
    """Return what to say of something that stands where another store is expected: it is not touched."""
    which = f"another file than {name} was" if name == known.name else f"{name}, not {known.name}"
    remedy = "put that back, or name it in block_force and restart to lease this one instead"
    return OSError(errno.ENODEV, f"another store stands here ({which}): {remedy}", path)


def known_of(backing: Backing) -> Known:
    """Return what is remembered of a store."""
    return Known(backing.name, backing.identity, backing.size, backing.is_device, backing.generation)


def _parsed(setting: str) -> tuple[str, int | None]:
    try:
        return split(setting)
    except ValueError as error:
        raise ConfigError(f"block {error}") from error
