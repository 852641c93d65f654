"""Carries out what the trust store wants written, before the answer that rests on it leaves.

A claim (D3c) becomes a file in the learned directory; an approval of an enrolment is removed from the admin's once it
is spent. What cannot be written so did not happen: its answer must not be sent.
"""

from __future__ import annotations

import logging
from pathlib import Path

from fabricbios.core.trust import PinPeer, SpendApproval, TrustEffect, TrustStore
from fabricbios.daemon.clock import now
from fabricbios.model import hex128
from fabricbios.transport import trustdir

log = logging.getLogger("fabricbios.trust")


class Pins:
    """Writes learned keys under `learned`, removes spent approvals from `admin`.

    `was_refused` says to whom nothing may be answered, until all that was to be answered together has been: `sent`.
    """

    def __init__(self, learned: Path, admin: Path) -> None:
        self._learned, self._admin = learned, admin
        self._refused: set[int] = set()

    def write_due(self, trust: TrustStore) -> None:
        """Carry out the trust store's effects."""
        while (effect := trust.next_effect()) is not None:
            try:
                self._carry_out(effect)
            except OSError as e:
                self._refused.add(effect.node_id)
                trust.effect_failed(effect, now())
                log.error("%s", _failure(effect, e))
            else:
                trust.effect_succeeded(effect)

    def _carry_out(self, effect: TrustEffect) -> None:
        who = hex128(effect.node_id)
        if isinstance(effect, PinPeer):
            path = trustdir.save(self._learned, trustdir.PEERS, effect.public_key)
            log.warning("claimed by %s; its key is %s", who, path)
            return
        for path in trustdir.forget(self._admin, trustdir.APPROVED, effect.node_id):
            log.info("the approval of %s is spent; removed %s", who, path)

    def was_refused(self, node_id: int) -> bool:
        """Whether an answer that waits for this peer says something that could not be kept."""
        return node_id in self._refused

    def sent(self) -> None:
        """All answers have been sent, or withheld."""
        self._refused.clear()


def _failure(effect: TrustEffect, error: OSError) -> str:
    who = hex128(effect.node_id)
    if isinstance(effect, SpendApproval):
        return f"no certificate for {who}: its approval cannot be removed ({error}): let this user write there"
    return f"claim of {who} not kept: {error}"
