"""Keeps a user-space server process alive: started again should it die, by the event loop's own watch."""

from __future__ import annotations

import asyncio
import logging

from fabricbios.dataplane.server import ServerProcess

log = logging.getLogger("fabricbios.server")
RESTART_AFTER = 0.5  # seconds


class ServerWatch:
    """Starts `server` and keeps it running; `name` is for the log.

    start() waits until it serves, OSError if it does not. Later nobody waits: a store that does not answer may hold up
    the server's start, and must not hold up the daemon and everybody's leases.
    """

    def __init__(self, server: ServerProcess, name: str) -> None:
        self._server, self._name = server, name
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._server.start()
        self._watch()

    def _watch(self) -> None:
        asyncio.get_running_loop().add_reader(self._server.pidfd, self._died)

    def close(self) -> None:
        """End the process for good."""
        if self._timer is not None:
            self._timer.cancel()
        if self._server.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._server.pidfd)
        self._server.close()

    def _died(self) -> None:
        asyncio.get_running_loop().remove_reader(self._server.pidfd)
        log.error("the %s server process ended (%s); starting it again", self._name, self._server.poll())
        self._later()

    def _later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(RESTART_AFTER, self._again)

    def _again(self) -> None:
        try:
            self._server.spawn()
        except OSError as error:
            log.error("the %s server process does not start: %s", self._name, error)
            self._later()
        else:
            self._watch()
