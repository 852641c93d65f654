"""What the event loop complains of: a line, or all of it."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from fabricbios.daemon import loopfaults


class Loop:
    def __init__(self) -> None:
        self.default: list[dict[str, Any]] = []

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.default.append(context)


def test_what_the_system_refuses_is_one_line_and_a_fault_is_told_whole(caplog: pytest.LogCaptureFixture) -> None:
    loop: Any = Loop()
    fault = {"message": "oh", "exception": ValueError("ours")}
    loopfaults.tell(loop, {"message": "accept", "exception": OSError(errno.EMFILE, "Too many open files")})
    loopfaults.tell(loop, fault)
    assert [r.getMessage() for r in caplog.records] == ["accept: [Errno 24] Too many open files"]
    assert caplog.records[0].exc_info is None
    assert loop.default == [fault]
