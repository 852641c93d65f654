"""Requests that came together are all heard before `on_heard`, and what is answered there leaves at once."""

from __future__ import annotations

import asyncio

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


def test_a_fault_there_costs_nobody_an_answer() -> None:
    async def body() -> None:
        async with served() as rig:
            faults: list[dict[str, object]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))

            def fault() -> None:
                raise RuntimeError("a fault of the handler")

            link = await rig.dial(rig.friend)
            rig.server.on_heard = fault
            assert await link.request(b"all the same", timeout=5) == b"all the same"
            assert faults
            link.close()

    run(body)
