"""Full collections are rare, and what needs them does not pile up."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
from quic_rig import run, served, until

from fabricbios.transport import cycles


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """Put back what is the whole process's."""
    threshold = gc.get_threshold()
    yield
    gc.enable()
    gc.unfreeze()
    gc.set_threshold(*threshold)


def test_what_is_made_by_then_is_never_walked_through_again() -> None:
    held = [[] for _ in range(1000)]
    young, middle, old = gc.get_threshold()
    cycles.spare_the_living()
    assert gc.get_freeze_count() > len(held)
    assert gc.get_threshold() == (young, middle, cycles.RARELY)
    assert old < cycles.RARELY


def test_connections_that_ended_are_freed_once_they_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cycles, "ENOUGH", 3)

    async def dial_and_leave(rig) -> weakref.ref:
        link = await rig.dial()
        await link.request(b"hello")
        engine = weakref.ref(next(reversed(rig.server._sessions.values())).quic)
        link.close()
        await until(lambda: not rig.server.connections)
        return engine

    async def body() -> None:
        async with served() as rig:
            gc.disable()
            engines = [await dial_and_leave(rig) for _ in range(2)]
            rig.server._ended.collect()
            assert all(engine() is not None for engine in engines)
            engines.append(await dial_and_leave(rig))
            rig.server._ended.collect()
            assert [engine() for engine in engines] == [None] * 3

    run(body)
