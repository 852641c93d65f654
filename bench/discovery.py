"""A relay at work, a core: announcements heard, forgeries dropped, questions answered.

The peer is the signature check alone, by the library that does it: what any verifying relay has to pay.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from report import Measured, Row, measure, run

from fabricbios.core.announcer import NodeFacts
from fabricbios.core.discovery import Discovery
from fabricbios.core.relay import Relay
from fabricbios.core.trust import TrustMode, TrustStore
from fabricbios.model import NS, Binding, Instant, ResourceType
from fabricbios.ports import TrustedKeys, UdpPeer
from fabricbios.wire import Frame, MsgType, ResourceSummary, Solicit

KEYS, EACH = 64, 32
START_MS = 1_800_000_000_000
PEER = "Ed25519 verify"
_rng = random.Random(1).randbytes


def at(milliseconds: int) -> Instant:
    return Instant(NS + milliseconds * 1_000_000, START_MS + milliseconds)


def announcements() -> list[tuple[bytes, UdpPeer]]:
    """Return datagrams of many nodes, each node's in order, all within the skew that a relay accepts."""
    resources = tuple(
        ResourceSummary(i << 64, kind, 0, 1 << 34, 1 << 33) for i, kind in enumerate(list(ResourceType)[:4])
    )
    facts = NodeFacts("192.0.2.1", 5701, resources, (Binding.UDP, Binding.QUIC))
    found = []
    nodes = [
        Discovery(Ed25519PrivateKey.from_private_bytes(_rng(32)), facts, interval_secs=0.001, targets=[peer], rng=_rng)
        for peer in (UdpPeer(f"192.0.2.{i}", 5700) for i in range(KEYS))
    ]
    for tick in range(EACH):
        for node in nodes:
            found += _announced(node, at(tick * 2))
    return found


def _announced(node: Discovery, moment: Instant) -> list[tuple[bytes, UdpPeer]]:
    node.handle_timer(moment)
    while (effect := node.next_effect()) is not None:
        node.effect_succeeded(effect, moment)
    return node.datagrams_to_send(moment)


def relay() -> Relay:
    return Relay(1, TrustStore(TrustMode.TOFU, TrustedKeys()), rng=_rng)


def hearing(datagrams: Sequence[tuple[bytes, UdpPeer]]) -> Callable[[], None]:
    """Return what hands the next datagram to a relay, a fresh one whenever all have been heard."""

    def heard() -> Iterator[None]:
        while True:
            it = relay()
            for data, peer in datagrams:
                it.receive(data, peer, at(EACH * 2))
                yield
            assert it.counts["announce", "accepted"] == len(datagrams), it.counts

    return heard().__next__


def dropping(data: bytes) -> Callable[[], None]:
    """Return what hands a forgery, of a node that the relay knows, to the relay; each from another address, because one
    that has sent many is not looked at any more."""
    it = relay()
    it.receive(data, UdpPeer("192.0.2.1", 5700), at(0))
    forged, ticks = data[:-1] + bytes([data[-1] ^ 1]), itertools.count()
    addresses = itertools.cycle([UdpPeer(f"198.51.{i >> 8}.{i & 255}", 4000) for i in range(1 << 14)])
    return lambda: it.receive(forged, next(addresses), Instant(at(0).boot_ns + next(ticks) * 100_000, START_MS))


def verifying(data: bytes) -> Callable[[], None]:
    """Return the signature check alone, of the same bytes."""
    frame = Frame.unpack(data)
    key = Ed25519PrivateKey.from_private_bytes(_rng(32))
    message = b"fabricbios-frame-v0\0" + frame.pack()[:-64]
    signature, public = key.sign(message), key.public_key()

    def verify() -> None:
        try:
            public.verify(signature, message)
        except InvalidSignature as error:
            raise AssertionError("our own signature") from error

    return verify


def asking(datagrams: Sequence[tuple[bytes, UdpPeer]]) -> Callable[[], None]:
    """Return one question without a cookie to a relay that knows KEYS nodes; each from another address."""
    it = relay()
    for data, peer in datagrams:
        it.receive(data, peer, at(EACH * 2))
    addresses = itertools.cycle([UdpPeer(f"198.51.{i >> 8}.{i & 255}", 4000) for i in range(1 << 14)])
    question, ticks = _question(), itertools.count()

    def ask() -> None:
        moment = Instant(at(0).boot_ns + next(ticks) * 100_000, START_MS)  # slow enough for the limit a source
        it.receive(question, next(addresses), moment)
        assert len(it.datagrams_to_send(moment)) == 1

    return ask


def _question() -> bytes:
    payload = Solicit(0, padding=1200 - 44 - 7).pack()
    return Frame(msg_type=MsgType.SOLICIT, flags=0, request_id=1, nonce=0, sender=0, payload=payload).pack()


def rows(quick: bool) -> list[Row]:
    datagrams = announcements()
    first = datagrams[0][0]
    rates = measure(
        {
            PEER: verifying(first),
            "ANNOUNCE heard": hearing(datagrams),
            "ANNOUNCE forged, dropped": dropping(first),
            "SOLICIT without cookie": asking(datagrams),
        },
        seconds=2 if quick else 8,
        runs=5 if quick else 15,
    )
    return [_row(case, rate, rates[PEER]) for case, rate in rates.items() if case != PEER]


def _row(case: str, ours: Measured, peer: Measured) -> Row:
    if not case.startswith("ANNOUNCE"):  # no signature in it: nothing to compare with
        return Row(case, ours.rate, "datagrams/s", "", None, None, ours.runs, ours.spread)
    return Row(case, ours.rate, "datagrams/s", PEER, peer.rate, ours.rate / peer.rate, ours.runs, ours.spread)


def main(argv: Sequence[str] | None = None) -> int:
    return run("discovery", rows, argv)


if __name__ == "__main__":
    sys.exit(main())
