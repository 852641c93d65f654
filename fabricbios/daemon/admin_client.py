"""Ask the node of this machine through its admin socket (daemon/admin.py)."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fabricbios.daemon.admin import NAME, UCRED, short_path
from fabricbios.errors import ConfigError, Disconnected
from fabricbios.transport import writers

MAX_ANSWER = 16 << 20
SECONDS = 10.0


class NoNodeHere(Disconnected):
    """Nobody answers at the admin socket."""

    remedy = "--runtime-dir names another node's; it is the one that fabricbiosd was started with"


class AdminClient:
    """One connection; use as `with`. Raises NoNodeHere where none is, ConfigError for what it will not answer.

    Who answers says whose key is to be certified (`trust approve`), so it must be root's, ours, or of the directory's
    owner, and nobody else may have put it there: ConfigError.
    """

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
        try:
            self._check()
        except BaseException:
            self._sock.close()
            raise
        self._lines = self._sock.makefile("rb")
        return self

    def _check(self) -> None:
        directory = self._path.parent
        found = directory.stat()
        if why := writers.objection(directory, found, found.st_uid):
            raise ConfigError(f"{directory} {why}")
        uid = UCRED.unpack(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))[1]
        if uid not in (0, os.geteuid(), found.st_uid):
            raise ConfigError(f"{self._path} is answered by user {uid}, who does not own {directory}: remove it")

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
