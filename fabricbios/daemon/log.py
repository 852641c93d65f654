"""Logging on standard error, as text, JSON lines, or with the journal's priority prefixes (sd-daemon(3)).

`say_all` is for what a busy node says of every lease: it writes what `Logger.log` would, without the LogRecord,
which takes ten times as long as the line.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable
from typing import TextIO

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_encode = json.JSONEncoder().encode

Line = Callable[[float, int, str, str], str]  # created (Unix s), level, logger's name, message
Said = tuple[float, int, str]  # created, level, message


def _journal(created: float, level: int, name: str, message: str) -> str:
    return f"<{_PRIORITY.get(level, 6)}>{name}: {message}".replace("\n", " | ")


def _json(created: float, level: int, name: str, message: str) -> str:
    called = logging.getLevelName(level).lower()
    return f'{{"time": {created}, "level": "{called}", "name": {_encode(name)}, "message": {_encode(message)}}}'


def _text(created: float, level: int, name: str, message: str) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(created))
    return f"{at},{int(created * 1000) % 1000:03d} {logging.getLevelName(level):<7} {name}: {message}"


_LINES: dict[str, Line] = {"journal": _journal, "json": _json, "text": _text}


class _Formatter(logging.Formatter):
    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        return self._line(record.created, record.levelno, record.name, message)


class _Output(logging.StreamHandler[TextIO]):
    """Standard error, for records and for lines."""

    def __init__(self, line: Line) -> None:
        super().__init__(sys.stderr)
        self.line = line
        self.setFormatter(_Formatter(line))

    def write(self, lines: str) -> None:
        """Write whole lines; as with records, an output that takes nothing stops nobody."""
        self.acquire()
        try:
            with contextlib.suppress(OSError):
                self.stream.write(lines)
                self.stream.flush()
        finally:
            self.release()


_output: _Output | None = None


def say_all(logger: logging.Logger, said: Iterable[Said]) -> None:
    """Log each under `logger`, all with one write. Before `set_up` this is `Logger.log`."""
    if _output is None:
        for _, level, message in said:
            logger.log(level, "%s", message)
        return
    line, name = _output.line, logger.name
    lines = [line(created, level, name, message) for created, level, message in said if logger.isEnabledFor(level)]
    if lines:
        _output.write("\n".join(lines) + "\n")


def set_up(form: str) -> None:
    """Send the `fabricbios` loggers to standard error in this form; libraries speak up from WARNING on."""
    global _output
    _output = _Output(_LINES[form])
    # What no format of ours shows is not found out for each line ("Optimization" in Python's logging HOWTO).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(handlers=[_output], level=logging.WARNING, force=True)
    logging.getLogger("fabricbios").setLevel(logging.INFO)
    logging.getLogger("quic").setLevel(logging.CRITICAL)  # what peers send is counted, not logged
