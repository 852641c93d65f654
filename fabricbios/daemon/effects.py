"""Carries out what core decided: one table from effect to driver call.

What is quick runs where the loop runs; what may take long (zeroing a large lease, configfs, wiping
blocks) runs in a few threads, so that one slow teardown holds up neither questions nor other teardowns.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from fabricbios.core.effects import Adopt, Do, Effect, Entry, Fence, Forget, LeaseEffect, Record, Rekey, Renew, Undo
from fabricbios.daemon.journal import Journal
from fabricbios.errors import LocalMisuse, Unsupported
from fabricbios.model import Binding, ResourceType
from fabricbios.ports import Adopter, DataPlane, Fencer, LeaseSpec

THREADS = 64  # most of them sleep in one and the same wait (SharedWait)
STORE_THREADS = 16  # for the effects of one store's leases
IO_THREADS = 4  # of each lane
QUICK_BYTES = 4 << 20  # memory that is zeroed in about a millisecond

MEM = ResourceType.MEM  # plain: each ResourceType.MEM is a call, before Python 3.12
Result = Sequence[Any]
Key = tuple[ResourceType, Binding]


class Effects:
    """Knows the journal and the data planes by kind and binding. Undoing `slow_steps` takes long whatever the size."""

    def __init__(
        self, journal: Journal, planes: Mapping[Key, DataPlane], slow_steps: frozenset[str] = frozenset()
    ) -> None:
        self._journal = journal
        self._planes = planes
        self._slow_steps = slow_steps
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="effect")
        # Lanes of their own: a slow teardown must not wait for I/O, nor a lane for others.
        self._io: dict[Hashable, ThreadPoolExecutor] = {}
        self._stores: dict[int, ThreadPoolExecutor] = {}
        self._under_way: set[Future[None]] = set()

    def write_first(self, effects: Sequence[Effect]) -> OSError | None:
        """Write what must be in the journal before these effects, all at once; say why it is not there."""
        entries = [entry for entry in map(_first, effects) if entry is not None]
        durable = any(isinstance(effect, Record | Do) and effect.durable for effect in effects)
        return self._write(entries, durable) if entries else None

    def write_then(self, effects: Sequence[Effect], results: Sequence[Result | OSError]) -> OSError | None:
        """Write what those of these effects that succeeded leave in the journal, all at once; likewise."""
        done = [e for e, result in zip(effects, results, strict=True) if not isinstance(result, OSError)]
        entries = [e.after for e in done if isinstance(e, Do | Undo) and e.after is not None]
        return self._write(entries, durable=False) if entries else None

    def _write(self, entries: Sequence[Entry], durable: bool) -> OSError | None:
        try:
            self._journal.append(entries, durable)
        except OSError as e:
            return e
        return None

    def is_quick(self, effect: Effect) -> bool:
        """Say whether the effect may run in the event loop's own thread."""
        if isinstance(effect, Record):
            return not effect.durable
        lease = effect.lease
        assert lease is not None
        if lease.kind is not MEM:
            return False
        if isinstance(effect, Undo):
            return lease.size <= QUICK_BYTES and effect.step not in self._slow_steps
        return not isinstance(effect, Rekey) or not self._slow_steps  # it waits as the undo of such a step does

    def run(self, work: Callable[[], None], lane: Hashable) -> None:
        """Do something else that may block: block I/O of QUIC streams. What is slow holds up its own lane alone, which
        is a store; there are as many as are configured."""
        if lane not in self._io:
            self._io[lane] = ThreadPoolExecutor(IO_THREADS, thread_name_prefix=f"io-{lane}")
        self._keep(self._io[lane].submit(work))

    def submit(self, effect: Effect, work: Callable[[], None]) -> None:
        """Do a slow effect's work in a thread. A store that hangs, with however many leases, holds up its own alone."""
        self._keep(self._pool_for(effect).submit(work))

    def _pool_for(self, effect: Effect) -> ThreadPoolExecutor:
        lease = effect.lease
        if isinstance(effect, Record) or lease is None or lease.kind is not ResourceType.BLOCK:
            return self._pool
        if lease.resource_id not in self._stores:
            self._stores[lease.resource_id] = ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="store-effect")
        return self._stores[lease.resource_id]

    def _keep(self, future: Future[None]) -> None:
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)

    @property
    def stuck(self) -> bool:
        """Whether a thread is still in a driver: a device that does not answer. The interpreter would wait for it."""
        return any(future.running() for future in set(self._under_way))

    def carry_out(self, effect: Effect) -> Result | OSError:
        """Do it, and return its result or the OSError it met. What a driver lacks is an OSError too."""
        try:
            return self._carry_out(effect)
        except OSError as e:
            return e
        except Unsupported as e:
            return OSError(errno.EOPNOTSUPP, str(e))

    def _carry_out(self, effect: Effect) -> Result:
        if isinstance(effect, Record):
            return ()  # write_first has written it
        assert isinstance(effect, LeaseEffect)
        lease = effect.lease
        plane = self._plane(lease)
        match effect:
            case Do(step=step):
                return plane.do(step, lease)
            case Undo(step=step):
                plane.undo(step, lease)
            case Renew():
                plane.renew(lease)
            case Rekey():
                return plane.rekey(lease)
            case Forget():
                plane.forget(lease)
            case Adopt():
                return _adopt(plane, lease)
            case Fence():
                if isinstance(plane, Fencer):
                    plane.fence(lease)
            case _:
                raise LocalMisuse(f"nobody carries out {effect}")
        return ()

    def _plane(self, lease: LeaseSpec) -> DataPlane:
        try:
            return self._planes[lease.kind, lease.binding]
        except KeyError:
            raise OSError(errno.ENODEV, f"no driver for {lease.kind.name} over {lease.binding.name} now") from None

    def close(self) -> None:
        for pool in (self._pool, *self._io.values(), *self._stores.values()):
            pool.shutdown(wait=False, cancel_futures=True)


def _first(effect: Effect) -> Entry | None:
    """Return what the journal must have before an effect."""
    if isinstance(effect, Do | Undo):
        return effect.before
    return effect.entry if isinstance(effect, Record) else None


def _adopt(plane: DataPlane, lease: LeaseSpec) -> Result:
    if not isinstance(plane, Adopter):
        raise OSError(errno.ENOENT, "this binding ends with its daemon")
    return plane.adopt(lease) or ()  # what a plane has to tell is told by LEASE_ATTACH
