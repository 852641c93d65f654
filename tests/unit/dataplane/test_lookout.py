"""When a server looks again before it sleeps: a real epoll, and a note of how it was asked."""

import select
import socket
from collections.abc import Iterator
from itertools import pairwise

import pytest

from fabricbios.dataplane import lookout
from fabricbios.dataplane.lookout import Lookout


class Watched:
    """A socket with something to read or without; `sleeps` and `looks` count the polls that would wait and do not."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self._poller = select.epoll()
        self._poller.register(self.near, select.EPOLLIN)
        self.looks = self.sleeps = 0
        self.lookout = Lookout(self._poll)

    def _poll(self, seconds: float | None) -> list[tuple[int, int]]:
        if seconds == 0:
            self.looks += 1
        else:
            self.sleeps += 1
        return self._poller.poll(0)

    def wait(self, is_expecting: bool = True) -> tuple[int, int]:
        """Return how many looks and sleeps that were."""
        self.looks = self.sleeps = 0
        self.lookout.wait(is_expecting, 0.001)
        return self.looks, self.sleeps

    def close(self) -> None:
        self._poller.close()
        self.near.close()
        self.far.close()


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.close()


def test_who_expects_nothing_sleeps_at_once(watched: Watched) -> None:
    assert [watched.wait(False) for _ in range(3)] == [(0, 1)] * 3


def test_what_is_there_is_found_without_sleep(watched: Watched) -> None:
    watched.far.send(b"?")
    assert [watched.wait() for _ in range(3)] == [(1, 0)] * 3
    assert watched.lookout.wait(True, None) == watched.lookout.wait(False, None) == [watched.near.fileno()]


def test_looks_in_vain_become_rare(watched: Watched) -> None:
    waits = [watched.wait() for _ in range(1000)]
    assert set(waits) == {(lookout._LOOKS, 1), (0, 1)}
    tries = [i for i, (looks, _) in enumerate(waits) if looks]
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert gaps[:3] == [2, 4, 8]
    assert set(gaps[3:]) == {lookout._MOST_SLEEPS + 1}


def test_a_client_that_is_near_again_is_believed(watched: Watched) -> None:
    for _ in range(200):
        watched.wait()
    watched.far.send(b"?")
    waits = [watched.wait() for _ in range(100)]
    found = waits.index((1, 0))
    assert found <= lookout._MOST_SLEEPS
    assert set(waits[found:]) == {(1, 0)}
    watched.near.recv(1)
    assert [watched.wait()[0] for _ in range(3)] == [lookout._LOOKS, 0, lookout._LOOKS]
