"""Keeps what a claim taught the node (D3c): written to disk before the answer to the claim leaves."""

from __future__ import annotations

import logging
from pathlib import Path

from fabricbios.core.trust import TrustStore
from fabricbios.daemon.clock import now
from fabricbios.model import hex128
from fabricbios.transport import trustdir

log = logging.getLogger("fabricbios.trust")


class Pins:
    """Writes learned keys under `learned`; remembers who could not be written until they claim again."""

    def __init__(self, learned: Path) -> None:
        self._learned = learned
        self._refused: set[int] = set()

    def write_due(self, trust: TrustStore) -> None:
        """Carry out the trust store's effects."""
        while (pin := trust.next_effect()) is not None:
            try:
                path = trustdir.save(self._learned, trustdir.PEERS, pin.public_key)
            except OSError as e:
                self._refused.add(pin.node_id)
                trust.effect_failed(pin, now())
                log.error("claim of %s not kept: %s", hex128(pin.node_id), e)
            else:
                self._refused.discard(pin.node_id)
                trust.effect_succeeded(pin)
                log.warning("claimed by %s; its key is %s", hex128(pin.node_id), path)

    def was_refused(self, node_id: int) -> bool:
        """Whether this peer's claim failed just now; asked once an answer."""
        refused = node_id in self._refused
        self._refused.discard(node_id)
        return refused
