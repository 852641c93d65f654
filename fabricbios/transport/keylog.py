"""SSLKEYLOGFILE: the TLS secrets of the connections that are dialled here, for whoever looks at a capture of them.

Of those alone: a node writes down the secrets of nobody who comes to it, whatever its environment says.
"""

from __future__ import annotations

import functools
import os
from typing import TextIO

from fabricbios.errors import ConfigError

VARIABLE = "SSLKEYLOGFILE"


def key_log() -> TextIO | None:
    """Return the file that the environment names, to be appended to, None if it names none.

    Raises ConfigError if it cannot be written.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    try:
        return _opened(path)
    except OSError as e:
        raise ConfigError(f"{VARIABLE}: {path}: {e.strerror}: unset it, or name a file that can be written") from None


@functools.cache
def _opened(path: str) -> TextIO:
    """Open it once for all connections. Whoever reads it reads what was said: it is its owner's alone."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "a", encoding="ascii")
