"""Whom this node trusts (D3): pinned keys, keys certified by a controller, and the first to claim it.

Sans-IO: `transport/trustdir.py` reads and writes the files, this decides. The three modes contain each
other: `pinned` takes pinned keys, `certified` certificates too, `tofu` besides lets the first peer claim.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import NamedTuple

from fabricbios.errors import WireError
from fabricbios.model import Instant, id_of_key
from fabricbios.ports import StreamPeer, TrustedKeys
from fabricbios.wire.certificate import Certificate
from fabricbios.wire.seal import verify_certificate

MAX_REMEMBERED = 1024  # certificates whose signature was checked


class TrustMode(StrEnum):
    TOFU = "tofu"
    PINNED = "pinned"
    CERTIFIED = "certified"


class PinPeer(NamedTuple):
    """Effect: write this key into the learned directory, durably, before any answer to the claim leaves."""

    node_id: int
    public_key: bytes


class SpendApproval(NamedTuple):
    """Effect: remove this id's approval from the admin's files, before its certificate leaves."""

    node_id: int


TrustEffect = PinPeer | SpendApproval


class TrustStore:
    """The decisions. `reload` swaps the keys at once; what was claimed and is not yet on disk stays."""

    def __init__(self, mode: TrustMode, keys: TrustedKeys) -> None:
        self.mode = mode
        self._keys = keys
        self._settled = frozenset(keys.controllers)  # controllers when all files could last be read
        self._lost_controller = False  # since then
        self._claimed: dict[int, bytes] = {}
        self._unwritten: dict[int, bytes] = {}
        self._spent: set[int] = set()  # approvals used since the files were read
        self._effects: deque[TrustEffect] = deque()
        self._signed: dict[tuple[bytes, bytes], bool] = {}  # (certificate, controller key) -> its signature holds

    def reload(self, keys: TrustedKeys) -> None:
        """Take over what the directories hold now. A pin that is gone is no longer trusted."""
        if not self._keys.broken:  # else nobody was judged by what that reload lost
            self._settled = frozenset(self._keys.controllers)
        self._lost_controller = bool(self._settled - keys.controllers.keys())
        self._keys = keys
        self._claimed = dict(self._unwritten)
        self._spent.clear()
        self._signed.clear()

    @property
    def claimed(self) -> bool:
        """Whether anybody is trusted, so that nobody else may claim the node."""
        return bool(self._keys.peers or self._keys.learned or self._claimed or self._keys.controllers)

    def knows(self, node_id: int) -> bytes | None:
        """Return the pinned public key of an id, to verify what it signs; None if there is none."""
        return self._keys.peers.get(node_id) or self._keys.learned.get(node_id) or self._claimed.get(node_id)

    def controller(self, issuer: int) -> bytes | None:
        """Return the public key of a controller, None if it is not one of ours."""
        return self._keys.controllers.get(issuer)

    def only_controller(self) -> bytes | None:
        """Return the public key of the one controller whose certificates count here, None where it is not one."""
        keys = [] if self.mode is TrustMode.PINNED else list(self._keys.controllers.values())
        return keys[0] if len(keys) == 1 else None

    def is_owner(self, node_id: int) -> bool:
        """Whether this peer claimed the node: it has every permission (D3)."""
        return node_id in self._claimed or node_id in self._keys.learned

    def is_approved(self, node_id: int, public_key: bytes) -> bool:
        """Whether the admin approved this key to be enrolled."""
        listed = self._keys.approved.get(node_id) == public_key and node_id not in self._spent
        return listed and node_id == id_of_key(public_key)

    def spend_approval(self, node_id: int) -> None:
        """An approval is good for one certificate. Makes an effect also for one whose file was not read yet."""
        if node_id in self._keys.approved:
            self._spent.add(node_id)
        self._effects.append(SpendApproval(node_id))

    def trusted(self, peer: StreamPeer, now: Instant) -> bool:
        """Whether a QUIC peer may do more than PING and GET_IDENTITY."""
        return bool(peer.public_key) and self.vouched(peer.node_id, peer.public_key, peer.certificate, now)

    def vouched(self, node_id: int, public_key: bytes, certificate: bytes, now: Instant) -> bool:
        """Whether a key that its owner proved is pinned, or certified where the mode takes certificates."""
        if node_id != id_of_key(public_key):
            return False
        pinned = self.knows(node_id)
        if pinned is not None:
            return pinned == public_key
        return self.mode is not TrustMode.PINNED and self._certified(node_id, public_key, certificate, now)

    def stands(self, node_id: int, certificate: bytes | None) -> bool:
        """Whether the admin still trusts an id that had trust, by what it showed last.

        Dates do not count: a certificate that ran out is no withdrawal, lets nothing new be asked, and leases end by
        themselves. While a file cannot be read nobody can tell whom it trusts, and what is ended does not come back.
        None is an id of which nothing is known, because a journal of before vouchers were kept says nothing: it stands
        with all controllers. Whoever showed no certificate had nothing but its pin.
        """
        if self._keys.broken or self.knows(node_id) is not None:
            return True
        if self.mode is TrustMode.PINNED:
            return False
        if certificate is None:
            return bool(self._keys.controllers) and not self._lost_controller
        return self._vouched_for(node_id, certificate) is not None

    def lists(self, node_id: int, public_key: bytes, certificate: bytes, now: Instant) -> bool:
        """Whether a relay hears this node: in tofu mode whoever proves its own key, else who is vouched for."""
        return self.mode is TrustMode.TOFU or self.vouched(node_id, public_key, certificate, now)

    def claim(self, peer: StreamPeer, now: Instant) -> bool:
        """Let the first peer with a proven key have the node (D3c); call it for a CAP_REQUEST.

        True makes a PinPeer effect. False for everybody once somebody is trusted, in other modes, and
        while a file of the trust directories cannot be read.
        """
        proven = bool(peer.public_key) and peer.node_id == id_of_key(peer.public_key)
        if self.mode is not TrustMode.TOFU or self.claimed or self._keys.broken or not proven:
            return False
        self._claimed[peer.node_id] = self._unwritten[peer.node_id] = peer.public_key
        self._effects.append(PinPeer(peer.node_id, peer.public_key))
        return True

    def next_effect(self) -> TrustEffect | None:
        """Return what is to be written or removed now, or None. Each is returned once."""
        return self._effects.popleft() if self._effects else None

    def effect_succeeded(self, effect: TrustEffect) -> None:
        """It is on disk: a reload will find it so."""
        if isinstance(effect, PinPeer):
            self._unwritten.pop(effect.node_id, None)

    def effect_failed(self, effect: TrustEffect, now: Instant) -> None:
        """A claim that cannot be kept was none: the peer is a stranger again. An approval that cannot be spent stays:
        who it is for may ask again, and gets no certificate as long as it cannot be removed."""
        if isinstance(effect, SpendApproval):
            self._spent.discard(effect.node_id)
            return
        self._unwritten.pop(effect.node_id, None)
        self._claimed.pop(effect.node_id, None)

    def _certified(self, node_id: int, public_key: bytes, certificate: bytes, now: Instant) -> bool:
        claim = self._vouched_for(node_id, certificate)
        return claim is not None and claim.public_key == public_key and claim.in_its_dates(now.unix)

    def _vouched_for(self, node_id: int, certificate: bytes) -> Certificate | None:
        """Return what a controller of ours says of an id, whenever that is to hold; None where none of them does."""
        try:
            claim = Certificate.unpack(certificate)
        except WireError:
            return None
        issuer = self.controller(claim.issuer)
        if claim.subject != node_id or issuer is None:
            return None
        return claim if self._signature_holds(certificate, claim, issuer) else None

    def _signature_holds(self, raw: bytes, certificate: Certificate, issuer: bytes) -> bool:
        """Each request of a connection shows the same certificate: check its signature once."""
        holds = self._signed.get((raw, issuer))
        if holds is None:
            holds = verify_certificate(certificate, issuer)
            if len(self._signed) >= MAX_REMEMBERED:
                del self._signed[next(iter(self._signed))]
            self._signed[raw, issuer] = holds
        return holds
