"""The scheduler's epoch: which requests and tokens it lets pass."""

import pytest

from fabricbios.core.fence import SchedulerFence
from fabricbios.errors import Refused
from fabricbios.model import Status


def status(check: object, epoch: int) -> Status:
    try:
        check(epoch)  # type: ignore[operator]
    except Refused as refusal:
        return refusal.status
    return Status.OK


@pytest.mark.parametrize(
    ("installed", "asked", "raises", "request_", "token"),
    [
        (0, 0, Status.INVALID_ARGS, Status.OK, Status.OK),
        (0, 1, Status.OK, Status.OK, Status.OK),
        (5, 0, Status.STALE_EPOCH, Status.FENCE_REQUIRED, Status.OK),
        (5, 4, Status.STALE_EPOCH, Status.STALE_EPOCH, Status.STALE_EPOCH),
        (5, 5, Status.STALE_EPOCH, Status.OK, Status.OK),
        (5, 6, Status.OK, Status.FENCE_REQUIRED, Status.OK),
    ],
)
def test_every_case(installed: int, asked: int, raises: Status, request_: Status, token: Status) -> None:
    fence = SchedulerFence(installed)
    assert status(fence.check_raise, asked) is raises
    assert status(fence.check_request, asked) is request_
    assert status(fence.check_token, asked) is token
