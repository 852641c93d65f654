"""Is this the node I meant? Judges the key a node proved (D3): expected, certified, or known from before."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from fabricbios.client.known_nodes import KnownNodes
from fabricbios.errors import Untrusted, WireError
from fabricbios.model import hex128, id_of_key
from fabricbios.transport import PeerKey
from fabricbios.wire import Certificate, verify_certificate

FirstUse = Callable[[str, int, PeerKey], bool]
"""Asked with host, port and key before an unknown node is pinned; False refuses it."""


def take(host: str, port: int, key: PeerKey) -> bool:
    """The usual answer to a first meeting."""
    return True


class Verifier:
    """Accepts the node with `node_id`, else one certified by `controllers` (raw keys), else the known or first one."""

    def __init__(
        self,
        host: str,
        port: int,
        node_id: int | None = None,
        controllers: Sequence[bytes] = (),
        known: KnownNodes | None = None,
        first_use: FirstUse = take,
    ) -> None:
        self._host, self._port = host, port
        self._node_id, self._controllers = node_id, controllers
        self._known = KnownNodes() if known is None else known
        self._first_use = first_use

    def __call__(self, key: PeerKey) -> None:
        """Raises Untrusted with a remedy in one line."""
        if self._node_id is not None:
            if key.node_id != self._node_id:
                raise Untrusted(
                    f"{self._where} is node {hex128(key.node_id)}, not {hex128(self._node_id)}: check address and id"
                )
        elif not self._certified(key):
            self._check_known(key)

    @property
    def _where(self) -> str:
        return f"{self._host} port {self._port}"

    def _check_known(self, key: PeerKey) -> None:
        pinned = self._known.get(self._host, self._port)
        if pinned == key.public_key:
            return
        if pinned is not None:
            raise Untrusted(
                f"{self._where} has another key now (node {hex128(key.node_id)}, was {hex128(id_of_key(pinned))}): "
                f"if the node was reinstalled, `fabricbios trust forget {self._host}:{self._port}`"
            )
        if not self._first_use(self._host, self._port, key):
            raise Untrusted(f"{self._where} is node {hex128(key.node_id)}, which was not accepted: name it by its id")
        self._known.pin(self._host, self._port, key.public_key)

    def _certified(self, key: PeerKey) -> bool:
        if not key.certificate or not self._controllers:
            return False
        try:
            held = Certificate.unpack(key.certificate)
        except WireError:
            return False
        fits = held.subject == key.node_id and held.public_key == key.public_key
        signers = [raw for raw in self._controllers if id_of_key(raw) == held.issuer]
        now = int(time.time())
        return fits and held.issued_at <= now < held.expires_at and any(verify_certificate(held, k) for k in signers)
