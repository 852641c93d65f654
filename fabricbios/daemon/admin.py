"""The admin socket: what root and the daemon's own user may ask of a running node, on this machine alone.

A Unix stream socket, `admin.sock` (0600) in the runtime directory: one JSON object a line, each answered by one line.
Everything is bounded: connections, the length of a request, the time somebody may be silent or not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from fabricbios.transport import writers

NAME = "admin.sock"
MAX_REQUEST = 64 << 10
MAX_CONNECTIONS = 16
IDLE_SECONDS = 60.0
SEND_SECONDS = 5.0
UCRED = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
log = logging.getLogger("fabricbios.admin")


class BadQuestion(ValueError):
    """Nobody asks that, or not like this; its text is the answer."""


@contextlib.contextmanager
def short_path(directory: Path, name: str) -> Iterator[str]:
    """Yield another name for DIRECTORY/NAME: sun_path holds 107 bytes, and directories may be longer."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


class AdminSocket:
    """Listens from `start` to `stop`; `answer` may raise BadQuestion."""

    def __init__(self, directory: Path, answer: Answer) -> None:
        self._directory, self._answer = directory, answer
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._served: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Make the directory and the socket; a stale one is replaced. OSError, also where another daemon listens."""
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        if why := writers.directory_objection(self._directory):
            raise OSError(f"{self._directory} {why}")
        if is_alive(self._directory):
            raise OSError(f"another daemon listens on {self._directory / NAME}")
        sock = self._bound()
        try:
            self._server = await asyncio.start_unix_server(self._serve, sock=sock, limit=MAX_REQUEST)
        except BaseException:
            sock.close()
            raise

    def _bound(self) -> socket.socket:
        """Bind beside, listen, then rename: whoever finds the name finds somebody who answers."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        fresh = self._directory / f".{NAME}.{os.getpid()}"
        try:
            os.fchmod(sock.fileno(), 0o600)  # what the name will have: there is no moment in which others may connect
            fresh.unlink(missing_ok=True)
            with short_path(self._directory, fresh.name) as path:
                sock.bind(path)
            sock.listen(MAX_CONNECTIONS)
            self._inode = fresh.stat().st_ino
            fresh.rename(self._directory / NAME)
        except BaseException:
            sock.close()
            raise
        return sock

    async def stop(self) -> None:
        """Close, and remove the socket if it is still ours. Safe to call twice."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        path = self._directory / NAME
        with contextlib.suppress(OSError):
            if path.stat().st_ino == self._inode:
                path.unlink()
        for task in self._served:
            task.cancel()
        await asyncio.gather(*self._served, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._served.add(task)
        try:
            if len(self._served) > MAX_CONNECTIONS:
                await _send(writer, {"error": f"{MAX_CONNECTIONS} are connected already"})
                return
            refusal = _refusal(writer)
            while await self._one(reader, writer, refusal):
                pass
        except (OSError, TimeoutError):
            pass  # whoever asked has gone, or sleeps: nobody is left to be told
        finally:
            self._served.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, refusal: str) -> bool:
        """Answer one request; return whether there may be another. Closing before it is read would lose the answer."""
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                line = await reader.readline()
        except ValueError:
            await _send(writer, {"error": f"a request is at most {MAX_REQUEST} bytes"})
            return False
        if not line.endswith(b"\n"):
            return False
        await _send(writer, {"error": refusal} if refusal else await self._answered(line))
        return not refusal

    async def _answered(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return {"error": "a request is one JSON object a line"}
        if not isinstance(request, dict):
            return {"error": "a request is one JSON object a line"}
        try:
            return await self._answer(request)
        except BadQuestion as e:
            return {"error": str(e)}


def _refusal(writer: asyncio.StreamWriter) -> str:
    raw = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)
    uid = UCRED.unpack(raw)[1]
    return "" if uid in (0, os.geteuid()) else f"user {uid} is neither root nor the daemon's"


async def _send(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
    writer.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
    async with asyncio.timeout(SEND_SECONDS):
        await writer.drain()


def is_alive(directory: Path) -> bool:
    """Whether somebody listens there; a socket that a killed daemon left refuses connections."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, short_path(directory, NAME) as path:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except BlockingIOError:
            return True  # its backlog is full
        except OSError:
            return False
    return True
