"""Ask the node of this machine through its admin socket (daemon/admin.py)."""

from __future__ import annotations

import errno
import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fabricbios.daemon.admin import NAME, short_path
from fabricbios.errors import ConfigError, Disconnected

MAX_ANSWER = 16 << 20
SECONDS = 10.0


class NoNodeHere(Disconnected):
    """Nobody answers at the admin socket."""

    remedy = "--runtime-dir names another node's; it is the one that fabricbiosd was started with"


class AdminClient:
    """One connection; use as `with`. Raises NoNodeHere where none is, ConfigError for what it will not answer."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._sock.settimeout(SECONDS)

    def __enter__(self) -> Self:
        try:
            with short_path(self._path.parent, NAME) as path:
                self._sock.connect(path)
        except PermissionError:
            self._sock.close()
            raise PermissionError(
                errno.EACCES, f"{self._path} is for root and the daemon's user alone: become one of them"
            ) from None
        except OSError as e:
            self._sock.close()
            raise NoNodeHere(f"no node answers at {self._path}: {e.strerror}") from None
        self._lines = self._sock.makefile("rb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._sock.close()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and return its answer."""
        try:
            self._sock.sendall(json.dumps(request).encode() + b"\n")
            line = self._lines.readline(MAX_ANSWER)
        except OSError as e:
            raise NoNodeHere(f"the node at {self._path} went away: {e}") from None
        if not line.endswith(b"\n"):
            raise NoNodeHere(f"the node at {self._path} went away")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ConfigError(f"the node at {self._path} says: {answer['error']}")
        return answer
