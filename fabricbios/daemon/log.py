"""Logging on standard error, as text, JSON lines, or with the journal's priority prefixes (sd-daemon(3))."""

from __future__ import annotations

import json
import logging
import sys

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_encode = json.JSONEncoder(check_circular=False).encode  # json.dumps makes one for each line


class _JournalFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"<{_PRIORITY.get(record.levelno, 6)}>{super().format(record)}".replace("\n", " | ")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {"time": record.created, "level": record.levelname.lower(), "name": record.name}
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        return _encode({**fields, "message": message})


def set_up(form: str) -> None:
    """Send the `fabricbios` loggers to standard error in this form; libraries speak up from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        {
            "journal": _JournalFormatter("%(name)s: %(message)s"),
            "json": _JsonFormatter(),
            "text": logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"),
        }[form]
    )
    # What no format of ours shows is not found out for each line ("Optimization" in Python's logging HOWTO).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("fabricbios").setLevel(logging.INFO)
    logging.getLogger("quic").setLevel(logging.CRITICAL)  # what peers send is counted, not logged
