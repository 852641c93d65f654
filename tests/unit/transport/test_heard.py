"""Requests that came together are all heard before `on_heard`, and what is answered there leaves at once."""

from __future__ import annotations

import asyncio

import pytest
from aioquic.quic import events

from fabricbios.errors import Disconnected
from fabricbios.transport.server import AT_ONCE
from tests.quic_rig import run, served


def test_one_call_hears_of_all_that_came_together() -> None:
    async def body() -> None:
        async with served() as rig:
            rig.echo.silent = True
            batches: list[int] = []

            def answer_all() -> None:
                asked, rig.echo.asked = rig.echo.asked, []
                batches.append(len(asked))
                for data, peer in asked:
                    rig.server.answer(peer, data)

            rig.server.on_heard = answer_all
            link = await rig.dial(rig.friend)
            questions = [b"%d" % n for n in range(20)]
            assert await asyncio.gather(*(link.request(q) for q in questions)) == questions
            assert max(batches) > 1
            link.close()

    run(body)


def test_of_very_many_the_first_are_answered_before_the_rest_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client works on those meanwhile, instead of waiting for its turn."""

    async def body() -> None:
        async with served() as rig:
            rig.echo.silent = True
            seen: list[int | str] = []

            def answer_all() -> None:
                asked, rig.echo.asked = rig.echo.asked, []
                seen.append(len(asked))
                for data, peer in asked:
                    rig.server.answer(peer, data)

            link = await rig.dial(rig.friend)
            (endpoint,) = rig.server._endpoints
            send = endpoint.send
            monkeypatch.setattr(endpoint, "send", lambda *a: (seen.append("sent"), send(*a)))
            rig.server.on_heard = answer_all
            questions = [b"%d" % n for n in range(50)]
            assert await asyncio.gather(*(link.request(q) for q in questions)) == questions
            heard = [n for n in seen if isinstance(n, int)]
            assert sum(heard) == 50
            assert len([n for n in heard if n]) > 1
            assert max(heard) < 2 * AT_ONCE
            assert all("sent" in seen[i + 1 : i + 2] for i, n in enumerate(seen) if isinstance(n, int) and n)
            link.close()

    run(body)


def test_what_is_left_is_never_a_crumb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers would be a packet of their own, and so would what they make the client ask."""

    async def body() -> None:
        async with served() as rig:
            link = await rig.dial(rig.friend)
            await link.request(b"opened")
            rig.echo.silent = True
            session = next(iter(rig.server._sessions.values()))
            session.trusted = True
            monkeypatch.setattr(session.quic, "has_stream", lambda stream: True)
            for asked, first in (
                (AT_ONCE - 1, AT_ONCE - 1),
                (2 * AT_ONCE - 1, 2 * AT_ONCE - 1),
                (2 * AT_ONCE, AT_ONCE),
            ):
                for n in range(asked):
                    session.quic._events.append(events.StreamDataReceived(b"x", True, 4 * n))
                assert session.take_events(AT_ONCE)[1] == first
                while session.unheard:
                    session.take_events(AT_ONCE)
            link.close()

    run(body)


def test_who_asks_and_at_once_waits_no_more_disturbs_nobody() -> None:
    """The question and STOP_SENDING in one packet: the engine has reset the stream before we hear of either."""

    async def body() -> None:
        async with served() as rig:
            link = await rig.dial(rig.friend)
            await link.request(b"opened")
            stream, unwanted = link.ask(b"never mind")
            link._quic._streams[stream].receiver.stop(0)
            assert await link.request(b"but this", timeout=60) == b"but this"
            assert rig.server.faults["answer_unwanted"] == 1
            with pytest.raises(Disconnected, match="reset the stream"):
                await unwanted
            link.close()

    run(body)


def test_several_that_ask_much_all_get_their_answers() -> None:
    async def body() -> None:
        async with served() as rig:
            links = [await rig.dial(rig.friend) for _ in range(5)]
            questions = [b"%d" % n for n in range(40)]
            answers = await asyncio.gather(*(link.request(q) for q in questions for link in links))
            assert answers == [q for q in questions for _ in links]
            for link in links:
                link.close()

    run(body)


def test_a_fault_there_costs_nobody_an_answer() -> None:
    async def body() -> None:
        async with served() as rig:
            faults: list[dict[str, object]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))

            def fault() -> None:
                raise RuntimeError("a fault of the handler")

            link = await rig.dial(rig.friend)
            rig.server.on_heard = fault
            assert await link.request(b"all the same", timeout=60) == b"all the same"
            assert faults
            link.close()

    run(body)
