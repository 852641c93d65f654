"""Lines written without a LogRecord are those that the loggers would have written."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from fabricbios.daemon import log

LOGGER = logging.getLogger("fabricbios.node")
AT = 1_800_000_000.125
SAID = 'lease.bound lease=01 "quoted"\nand more'


class Output:
    """A standard error that counts writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writes: list[str] = []
        self.broken = False
        self._monkeypatch = monkeypatch

    def set_up(self, form: str) -> None:
        self._monkeypatch.setattr(sys, "stderr", self)
        log.set_up(form)

    def write(self, text: str) -> None:
        if self.broken:
            raise BrokenPipeError
        self.writes.append(text)

    def flush(self) -> None:
        pass


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Iterator[Output]:
    """Standard error for `set_up`, which changes the whole process: all of it is put back."""
    root, ours, quic = logging.getLogger(), logging.getLogger("fabricbios"), logging.getLogger("quic")
    handlers, levels = root.handlers[:], [logger.level for logger in (root, ours, quic)]
    for name in ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing"):
        monkeypatch.setattr(logging, name, getattr(logging, name))
    monkeypatch.setattr(log, "_output", None)
    root.handlers.clear()  # else set_up closes pytest's
    yield Output(monkeypatch)
    root.handlers[:] = handlers
    for logger, level in zip((root, ours, quic), levels, strict=True):
        logger.setLevel(level)


@pytest.mark.parametrize("form", ["text", "json", "journal"])
def test_a_line_is_what_the_logger_writes(form: str, output: Output) -> None:
    output.set_up(form)
    LOGGER.log(logging.WARNING, "%s", SAID)
    log.say_all(LOGGER, [(AT, logging.WARNING, SAID)])
    theirs, ours = (
        re.sub(r"[\d:.,-]{9,}", "TIME", line) for line in map(str, ("".join(output.writes[:-1]), output.writes[-1]))
    )
    assert ours == theirs


def test_the_forms(output: Output) -> None:
    output.set_up("json")
    log.say_all(LOGGER, [(AT, logging.INFO, SAID)])
    told: dict[str, Any] = json.loads(output.writes.pop())
    assert told.pop("time") == AT
    assert told == {"level": "info", "name": "fabricbios.node", "message": SAID}
    output.set_up("journal")
    log.say_all(LOGGER, [(AT, logging.WARNING, SAID)])
    assert output.writes.pop() == '<4>fabricbios.node: lease.bound lease=01 "quoted" | and more\n'


def test_lines_of_a_moment_are_one_write_and_what_is_too_quiet_is_none(output: Output) -> None:
    output.set_up("journal")
    log.say_all(LOGGER, [(AT, logging.INFO, "one"), (AT, logging.DEBUG, "no"), (AT, logging.ERROR, "two")])
    log.say_all(LOGGER, [(AT, logging.DEBUG, "no")])
    assert output.writes == ["<6>fabricbios.node: one\n<3>fabricbios.node: two\n"]


def test_an_output_that_is_gone_stops_nobody(output: Output) -> None:
    output.set_up("text")
    output.broken = True
    log.say_all(LOGGER, [(AT, logging.INFO, "lost")])


def test_before_it_is_set_up_the_logger_has_them(output: Output, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger().addHandler(caplog.handler)
    LOGGER.setLevel(logging.INFO)
    log.say_all(LOGGER, [(AT, logging.INFO, "100 % one")])
    LOGGER.setLevel(logging.NOTSET)
    assert caplog.messages == ["100 % one"]
