"""Notices that a store of block leases is gone, back, or errs, while they live: a pulled disk, a file cut short.

Nothing else would tell the daemon: with NVMe-oF the kernel serves, and only the host sees its I/O fail. A store that
is gone loses its leases (their holders hear REVOKED, teardown fails to wipe, the resource is FENCED) and is offered
no more until it is back. A disk that is there and fails some I/O is its holders' affair: they see the errors, the admin
hears of them, and leases go on. One of which nothing at all can be read is as good as gone, and treated so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import NamedTuple, Protocol

from fabricbios.core.node import Node
from fabricbios.daemon.clock import now
from fabricbios.dataplane.store_faults import Faults

log = logging.getLogger("fabricbios.block")
EVERY = 2.0  # seconds between two looks
SILENT_SECONDS = 10.0  # a look takes microseconds where a store answers
QUIET_SECONDS = 60.0  # a store that has not erred for so long errs no more
STATES = WELL, ERRS, SILENT, ABSENT = "well", "errs", "silent", "absent"
REMEDY = "put it back: it is taken in again by itself"


class Loop(Protocol):
    """What is asked of `daemon.loop.NodeLoop`."""

    @property
    def node(self) -> Node: ...
    def pump(self, first: Callable[[], None]) -> None: ...
    def in_thread(
        self, work: Callable[[], bytes], then: Callable[[bytes | None], None], lane: Hashable = ""
    ) -> None: ...


class Store(Protocol):
    """What is asked of `daemon.storelook.StoreLook`."""

    path: str

    @property
    def absence(self) -> OSError | None: ...
    def look(self, is_suspect: bool) -> None: ...
    @property
    def faults(self) -> Callable[[], Faults]: ...
    @property
    def is_silent(self) -> Callable[[], bool]: ...


class StoreState(NamedTuple):
    """`state` is one of the four words above; `why` is for people, "" where all is well."""

    path: str
    state: str
    why: str
    faults: Faults


class StoreWatch:
    """Looks at `stores` (by resource id) beside the loop, each in a lane of its own: one on a dead network file system
    may not answer at all, and however many such there are, the others are looked at all the same.

    `refit` is called in the loop with each store that was let go or taken in, before core hears of it; `changed` after
    the state of one may be another.
    """

    def __init__(
        self,
        stores: Mapping[int, Store],
        loop: Loop,
        refit: Callable[[int], None] = lambda _: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._stores, self._loop, self._refit, self._changed = stores, loop, refit, changed
        self._asked: dict[int, float] = {}  # who is being looked at, and since when
        self._lost: dict[int, str] = {}
        self._erred: dict[int, float] = {}  # when the count of its errors last grew
        self._counted: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Tell at once what a start found missing; then look, now and every EVERY seconds."""
        for resource_id, store in self._stores.items():
            if store.absence is not None and resource_id not in self._lost:
                self._gone(resource_id, f"{store.path}: {store.absence.strerror}")
        self._look_at_all()

    def _look_at_all(self) -> None:
        """Look at every store that is not being looked at still."""
        for resource_id, store in self._stores.items():
            if resource_id not in self._asked:
                self._asked[resource_id] = time.monotonic()
                self._count(resource_id, store)
                look, then = partial(_why_gone, store, resource_id in self._erred), partial(self._looked, resource_id)
                self._loop.in_thread(look, then, ("look", resource_id))
        if self._stores:
            self._timer = asyncio.get_running_loop().call_later(EVERY, self._look_at_all)
            self._changed()

    def stop(self) -> None:
        """Look no more; what a look under way finds is of no interest: the stores may be closed already."""
        self._stores = {}
        if self._timer is not None:
            self._timer.cancel()

    def states(self) -> dict[int, StoreState]:
        """Return how each store is."""
        return {resource_id: self._state(resource_id, store) for resource_id, store in self._stores.items()}

    def _state(self, resource_id: int, store: Store) -> StoreState:
        faults = store.faults()
        if resource_id in self._lost:
            return StoreState(store.path, ABSENT, f"{self._lost[resource_id]}; {REMEDY}", faults)
        at = time.monotonic()
        if store.is_silent() or at - self._asked.get(resource_id, at) > SILENT_SECONDS:
            return StoreState(store.path, SILENT, f"{store.path} does not answer", faults)
        if resource_id in self._erred:
            return StoreState(store.path, ERRS, _told(store.path, faults), faults)
        return StoreState(store.path, WELL, "", faults)

    def _count(self, resource_id: int, store: Store) -> None:
        """Say once that a store errs, and once that it does no more; what is gone errs, and that was said."""
        faults, at = store.faults(), time.monotonic()
        if resource_id in self._lost:
            self._counted[resource_id] = faults.total
        elif faults.total > self._counted.get(resource_id, 0):
            if resource_id not in self._erred:
                log.error("a store errs, its holders see it and their leases go on: %s", _told(store.path, faults))
                self._loop.node.degrade(resource_id, True)
            self._counted[resource_id], self._erred[resource_id] = faults.total, at
        elif at - self._erred.get(resource_id, at) > QUIET_SECONDS:
            del self._erred[resource_id]
            self._loop.node.degrade(resource_id, False)
            log.warning("%s has not erred for %g s", store.path, QUIET_SECONDS)

    def _looked(self, resource_id: int, answer: bytes | None) -> None:
        """None is a fault of ours, logged where it happened: it says nothing about the store."""
        self._asked.pop(resource_id, None)
        if resource_id not in self._stores:
            return
        if answer:
            self._gone(resource_id, answer.decode())
        elif answer == b"" and resource_id in self._lost:
            self._back(resource_id)

    def _gone(self, resource_id: int, why: str) -> None:
        """Say it, once a reason; the first time its leases end."""
        was = self._lost.get(resource_id)
        self._lost[resource_id] = why
        if was == why:
            return
        if was is not None:
            log.error("that store is not back: %s", why)
        else:
            log.error("a store is gone, and its leases with it: %s; %s", why, REMEDY)
            self._refit(resource_id)
            self._loop.pump(lambda: self._loop.node.lose(resource_id, now()))
        self._changed()

    def _back(self, resource_id: int) -> None:
        del self._lost[resource_id]
        if self._erred.pop(resource_id, None) is not None:
            self._loop.node.degrade(resource_id, False)
        log.warning("%s is back; what is FENCED on it waits for FENCE_CLEAR", self._stores[resource_id].path)
        self._refit(resource_id)
        self._loop.pump(lambda: self._loop.node.regain(resource_id))
        self._changed()


def _told(path: str, faults: Faults) -> str:
    last = os.strerror(faults.errno)
    return (
        f"{path}: {faults.reads} reads, {faults.writes} writes, {faults.flushes} flushes failed, the last with {last}"
    )


def _why_gone(store: Store, is_suspect: bool) -> bytes:
    """Return what the kernel says against the store, nothing where it is whole."""
    try:
        store.look(is_suspect)
    except OSError as error:
        return (f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)).encode()
    return b""
