"""What the event loop complains of: a line now and then, or all of it."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from fabricbios.daemon.loopfaults import Complaints


class Loop:
    def __init__(self) -> None:
        self.default: list[dict[str, Any]] = []

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.default.append(context)


def test_what_the_system_refuses_is_one_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    loop: Any = Loop()
    seconds = iter([0.0, 0.1, 0.2, 1.3])
    complaints = Complaints(lambda: next(seconds))
    refused = [{"message": word, "exception": OSError(errno.EMFILE, "none left")} for word in ("a", "a", "b", "b")]
    for context in refused:
        complaints.tell(loop, context)
    assert [r.getMessage() for r in caplog.records] == [f"{word}: [Errno 24] none left" for word in ("a", "b", "b")]
    assert [r.exc_info for r in caplog.records] == [None] * 3
    assert loop.default == []


def test_a_fault_is_told_whole_and_what_asyncio_does_to_a_closed_socket_is_none() -> None:
    loop: Any = Loop()
    faults = [ValueError("Invalid file descriptor: -1"), ValueError("ours"), KeyError("ours")]
    for fault in faults:
        Complaints().tell(loop, {"message": "oh", "exception": fault})
    assert [context["exception"] for context in loop.default] == faults[1:]
