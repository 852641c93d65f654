"""The files and devices of `block = [...]`, opened and journaled: what block leases of any binding are carved from."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from fabricbios.daemon.config import Config
from fabricbios.daemon.settings import parse_size
from fabricbios.dataplane.blockpool import BlockPool
from fabricbios.dataplane.extent_journal import ExtentJournal
from fabricbios.errors import ConfigError
from fabricbios.hw.backing import Backing, Wipe, open_backing
from fabricbios.hw.sysfs import Sysfs
from fabricbios.model import Binding, Resource, ResourceType, resource_id_of

log = logging.getLogger("fabricbios.block")
JOURNAL = "extents"  # in the state directory


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


class BlockStores:
    """All stores of the configuration, or none: opening raises ConfigError or OSError and leaves nothing open."""

    def __init__(self, config: Config, node_id: int) -> None:
        self.journal = ExtentJournal(config.state_dir / JOURNAL)
        self._opened: list[Backing] = []
        try:
            backings = self._open(config, node_id)
            self.pool = BlockPool(backings, self.journal, cast(Wipe, config.block_wipe))
        except BaseException:
            self.close()
            raise
        self.by_resource = backings

    def _open(self, config: Config, node_id: int) -> dict[int, Backing]:
        found: dict[int, Backing] = {}
        forced = {Path(path).resolve() for path in config.block_force}
        for setting in config.block:
            path, size = _parsed(setting)
            force = Path(path).resolve() in forced
            backing = open_backing(Sysfs(), path, size, force=force, ours=self.journal.stores)
            self._opened.append(backing)
            if backing.overridden:
                log.warning("leasing %s although: %s (block_force)", path, "; ".join(backing.overridden))
            resource_id = resource_id_of(node_id, ResourceType.BLOCK, backing.name)
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

    def close(self) -> None:
        for backing in self._opened:
            backing.close()
        self._opened.clear()
        self.journal.close()


def _parsed(setting: str) -> tuple[str, int | None]:
    try:
        return split(setting)
    except ValueError as error:
        raise ConfigError(f"block {error}") from error
