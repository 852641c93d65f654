"""Network namespaces for tests: a veth pair between two of our own, and threads that live inside one."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import subprocess
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
CLONE_NEWNET = 0x40000000  # setns(2)
_NUMBER = itertools.count()


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Inside:
    """An event loop in a thread whose network is one namespace; the rest of the process stays where it is."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, T], timeout: float = 90) -> T:
        """Run `work` in there and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _live(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(f"/run/netns/{self._namespace}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(descriptor, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)
        self._loop.run_forever()


class VethPair:
    """Namespaces `there` and `here`, each with an end called `iface` of one veth pair.

    `families` is "4", "6" or "46": which addresses the ends get. Addresses end in 1 there and in 2 here.
    """

    V4, V6 = "10.57.0.", "fd57::"

    def __init__(self, families: str = "46") -> None:
        tag = f"{os.getpid()}-{next(_NUMBER)}"
        self.there, self.here, self.iface, self.families = f"fbt-{tag}", f"fbh-{tag}", "fbv0", families
        self._inside: list[Inside] = []

    def make(self) -> None:
        for name in (self.there, self.here):
            ip("netns", "add", name)
        ip("-n", self.there, "link", "add", self.iface, "type", "veth", "peer", "name", self.iface, "netns", self.here)
        for name, end in ((self.there, "1"), (self.here, "2")):
            self._sysctl(name, "disable_ipv6", "0" if "6" in self.families else "1")
            self._sysctl(name, "accept_dad", "0")  # or link-local addresses would take a second
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", self.iface, "up")
            if "4" in self.families:
                ip("-n", name, "addr", "add", f"{self.V4}{end}/24", "dev", self.iface)
            if "6" in self.families:
                ip("-n", name, "addr", "add", f"{self.V6}{end}/64", "dev", self.iface, "nodad")

    def unmake(self) -> None:
        for inside in self._inside:
            inside.close()
        for name in (self.there, self.here):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def inside(self, namespace: str) -> Inside:
        """Return a loop in `there` or `here`; it is closed with the pair."""
        made = Inside(namespace)
        self._inside.append(made)
        return made

    def _sysctl(self, name: str, key: str, value: str) -> None:
        path = f"/proc/sys/net/ipv6/conf/{self.iface}/{key}"
        ip("netns", "exec", name, "sh", "-c", f"test ! -e {path} || echo {value} > {path}")
