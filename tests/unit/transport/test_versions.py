"""Version negotiation by the invariants alone (RFC 8999): a version to come may look any way behind them."""

from __future__ import annotations

import os

import pytest

from fabricbios.transport.versions import SMALLEST_INITIAL, VERSIONS, negotiation

TO_COME = 0x1A2A3A4A


def packet(destination: bytes, source: bytes, version: int = TO_COME, first: int = 0xC0) -> bytes:
    head = bytes([first]) + version.to_bytes(4, "big")
    ids = bytes([len(destination)]) + destination + bytes([len(source)]) + source
    return (head + ids).ljust(SMALLEST_INITIAL, b"\xff")  # no length that v1 could read


@pytest.mark.parametrize("first", [0x80, 0xC0, 0xFF])
@pytest.mark.parametrize("sizes", [(0, 0), (4, 0), (8, 8), (20, 0), (20, 20)])
def test_any_connection_ids_are_sent_back_the_other_way_round(sizes: tuple[int, int], first: int) -> None:
    destination, source = map(os.urandom, sizes)
    answer = negotiation(packet(destination, source, first=first))
    assert answer is not None
    assert answer[0] & 0x80
    assert answer[1:5] == bytes(4)
    ids = bytes([len(source)]) + source + bytes([len(destination)]) + destination
    assert answer[5:] == ids + b"".join(int(version).to_bytes(4, "big") for version in VERSIONS)


def test_nothing_else_is_answered() -> None:
    assert negotiation(b"\xff" * SMALLEST_INITIAL) is None
    assert negotiation(packet(bytes(21), b"")) is None
    for silent in (packet(b"", b"", version=0), packet(b"", b"", first=0x40), packet(b"", b"")[:-1], b""):
        assert negotiation(silent) is None
    assert all(negotiation(packet(b"", b"", version=ours)) is None for ours in VERSIONS)
