"""Waiting for a store that may never answer: results and faults come through, and nobody waits twice."""

import errno
import threading
from collections.abc import Iterator

import pytest

from fabricbios.dataplane.patience import Patience


class Device:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked, self.back = threading.Event(), threading.Event()

    def hang(self) -> str:
        self.asked.set()
        assert self.back.wait(60)
        return "late"


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    yield made
    made.back.set()


def test_what_is_in_time_comes_back(device: Device) -> None:
    patience = Patience("disk")
    device.back.set()
    assert patience.run(device.hang, 20) == "late"
    assert not patience.is_at_an_end


@pytest.mark.parametrize("fault", [OSError(errno.EIO, "broken"), OSError(errno.ETIMEDOUT, "its own"), ValueError()])
def test_a_fault_is_the_callers_and_no_hang(fault: Exception) -> None:
    def fail() -> None:
        raise fault

    patience = Patience("disk")
    with pytest.raises(type(fault)) as raised:
        patience.run(fail, 20)
    assert raised.value is fault
    assert not patience.is_at_an_end


def test_who_asks_a_store_that_hangs_is_let_go_and_the_next_at_once(device: Device) -> None:
    patience = Patience("disk")
    with pytest.raises(OSError, match=r"not answered for 0\.01 s: 'disk'") as raised:
        patience.run(device.hang, 0.01)
    assert raised.value.errno == errno.ETIMEDOUT
    assert device.asked.wait(60)
    begun: list[int] = []
    with pytest.raises(OSError, match="not answered still"):
        patience.run(lambda: begun.append(1), 1e6)
    assert (begun, patience.is_at_an_end) == ([], True)


def test_a_store_that_answers_again_is_asked_again(device: Device) -> None:
    patience = Patience("disk")
    threads = set(threading.enumerate())
    with pytest.raises(OSError, match="not answered"):
        patience.run(device.hang, 0.01)
    device.back.set()
    for thread in set(threading.enumerate()) - threads:
        thread.join(60)
    assert patience.run(lambda: 5, 20) == 5
