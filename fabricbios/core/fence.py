"""The scheduler's epoch fence: once one is installed, tokens are only minted for its holder (D6, D7).

wire encoding, "Scheduler fencing ops". The epoch survives restarts through `record.epoch_entry`.
"""

from __future__ import annotations

from fabricbios.errors import Refused
from fabricbios.model import Status


class SchedulerFence:
    """`epoch` 0 means that none is installed."""

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch

    def check_raise(self, epoch: int) -> None:
        """Refuse an epoch that may not be installed: 0 at first, later whatever is not above the last."""
        if self.epoch and epoch <= self.epoch:
            raise Refused.of(Status.STALE_EPOCH, f"epoch {self.epoch} is installed")
        if epoch == 0:
            raise Refused.of(Status.INVALID_ARGS, "epoch 0 cannot be installed")

    def check_request(self, epoch: int) -> None:
        """CAP_REQUEST and CAP_REFRESH: the epoch asked with, 0 for none. A fence not installed here is none."""
        if not self.epoch:
            return
        if epoch == 0 or epoch > self.epoch:
            raise Refused.of(Status.FENCE_REQUIRED, f"epoch {self.epoch} is installed")
        self.check_token(epoch)

    def check_token(self, epoch: int) -> None:
        """A token of an older scheduler is stale; one minted without an epoch lives out its few minutes."""
        if 0 < epoch < self.epoch:
            raise Refused.of(Status.STALE_EPOCH, f"epoch {self.epoch} is installed")
