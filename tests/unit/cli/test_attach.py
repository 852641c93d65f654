"""cli/attach: what ends the holding of a disk. The rest is tests/vm/test_nvmeof_hold.py, with a real kernel."""

import asyncio
from typing import Any, cast

import pytest

from fabricbios.cli import attach
from fabricbios.client import Lease
from fabricbios.errors import Disconnected, FabricError, Revoked
from fabricbios.model import Status


class StubLease:
    lease_id = 7
    over: FabricError | None = None


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """What this kernel is connected to."""
    connected = {7: "/dev/nvme9n1"}
    monkeypatch.setattr(attach, "_LOOK", 0.001)
    monkeypatch.setattr(attach.kernel, "attached", lambda: connected)
    return connected


def held(*, then: Any) -> None:
    """Hold until it is over, with `then(lease, enough)` a moment later."""

    async def work() -> None:
        lease, enough = StubLease(), asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, then, lease, enough)
        await attach._until_over(cast(Lease, lease), enough)

    asyncio.run(asyncio.wait_for(work(), 60))


def test_a_signal_is_enough(kernel: dict[int, str]) -> None:
    held(then=lambda lease, enough: enough.set())


def test_a_lease_that_is_over_is_enough(kernel: dict[int, str]) -> None:
    held(then=lambda lease, enough: setattr(lease, "over", Revoked(Status.LEASE_EXPIRED, "taken back")))


def test_a_disk_that_the_kernel_lost_is_an_error(kernel: dict[int, str]) -> None:
    with pytest.raises(Disconnected, match="disk is gone"):
        held(then=lambda lease, enough: kernel.clear())


def test_a_disk_still_connecting_again_is_held(kernel: dict[int, str]) -> None:
    """Its namespace may be hidden meanwhile; the controller is there."""

    def hide(lease: StubLease, enough: asyncio.Event) -> None:
        kernel[7] = ""
        asyncio.get_running_loop().call_later(0.02, enough.set)

    held(then=hide)
