"""Notices that a store of block leases is gone, while they live: a pulled disk, a file truncated or deleted.

Nothing else would tell the daemon: with NVMe-oF the kernel serves, and only the host sees its I/O fail. A store that
is gone loses its leases (their holders hear REVOKED, teardown fails to wipe, the resource is FENCED) and is offered
no more until it is back. A disk that is there and only fails to read is its holders' affair: they see the errors.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Protocol

from fabricbios.core.node import Node
from fabricbios.daemon.clock import now
from fabricbios.hw.backing import Backing

log = logging.getLogger("fabricbios.block")
EVERY = 2.0  # seconds between two looks


class Loop(Protocol):
    """What is asked of `daemon.loop.NodeLoop`."""

    @property
    def node(self) -> Node: ...
    def pump(self, first: Callable[[], None]) -> None: ...
    def in_thread(
        self, work: Callable[[], bytes], then: Callable[[bytes | None], None], lane: Hashable = ""
    ) -> None: ...


class StoreWatch:
    """Looks at `stores` (by resource id) beside the loop, each in a lane of its own: one on a dead network file system
    may not answer at all, and however many such there are, the others are looked at all the same."""

    def __init__(self, stores: Mapping[int, Backing], loop: Loop) -> None:
        self._stores, self._loop = stores, loop
        self._asked: set[int] = set()
        self._lost: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look at every store that is not being looked at still, now and every EVERY seconds."""
        for resource_id, backing in self._stores.items():
            if resource_id not in self._asked:
                self._asked.add(resource_id)
                look, then = partial(_why_gone, backing), partial(self._looked, resource_id)
                self._loop.in_thread(look, then, ("look", resource_id))
        if self._stores:
            self._timer = asyncio.get_running_loop().call_later(EVERY, self.start)

    def stop(self) -> None:
        """Look no more; what a look under way finds is of no interest: the stores may be closed already."""
        self._stores = {}
        if self._timer is not None:
            self._timer.cancel()

    def _looked(self, resource_id: int, answer: bytes | None) -> None:
        """None is a fault of ours, logged where it happened: it says nothing about the store."""
        self._asked.discard(resource_id)
        if resource_id not in self._stores:
            return
        if answer and resource_id not in self._lost:
            self._lost.add(resource_id)
            log.error("a store is gone, and its leases with it: %s", answer.decode())
            self._loop.pump(lambda: self._loop.node.lose(resource_id, now()))
        elif answer == b"" and resource_id in self._lost:
            self._lost.discard(resource_id)
            log.warning("%s is back; what is FENCED on it waits for FENCE_CLEAR", self._stores[resource_id].path)
            self._loop.pump(lambda: self._loop.node.regain(resource_id))


def _why_gone(backing: Backing) -> bytes:
    """Return what the kernel says against the store, nothing where it is whole."""
    try:
        backing.check()
    except OSError as error:
        return str(error).encode()
    return b""
