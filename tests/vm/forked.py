"""Our programs as processes of their own that need not import anything anew: imports take seconds under TCG."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


class Forked:
    """`main` with `arguments` as its command line, in a child, whose network namespace is `netns` where one is named.

    `stdout` is where to read its output; what it says on stderr is appended to `log`.
    """

    def __init__(self, main: Callable[[], None], *arguments: str, log: Path, netns: str = "") -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _become(main, arguments, writing, log, netns)
        os.close(writing)
        self.stdout = os.fdopen(reading)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 60) -> int:
        """Return the exit code, -N where signal N ended it; TimeoutError, and it is killed, if it does not end."""
        deadline = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"process {self.pid} still ran after {seconds} s")
            time.sleep(0.02)


def _become(main: Callable[[], None], arguments: tuple[str, ...], stdout: int, log: Path, netns: str) -> NoReturn:
    """Whatever happens here must not come back into pytest."""
    code = 70
    try:
        stderr = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        logging.root.handlers.clear()  # pytest's
        if netns:
            os.setns(os.open(f"/run/netns/{netns}", os.O_RDONLY), os.CLONE_NEWNET)
        sys.argv = ["forked", *arguments]
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
