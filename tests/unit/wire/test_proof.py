"""A relay's entry is proven by the node's own signature, or it is not proven at all (D4)."""

import pytest
from discovery_rig import announcing, at, facts, key, raw

from fabricbios.errors import WireError
from fabricbios.model import Binding
from fabricbios.wire.discovery import Announce
from fabricbios.wire.frame import Frame, FrameFlag
from fabricbios.wire.inventory import AnnounceProof, RelaySeen
from fabricbios.wire.proof import add_proof, has_relay_tags, verify_entry
from fabricbios.wire.seal import sign_frame


def heard() -> Frame:
    _, (datagram,) = announcing(key(1), at(), facts=facts(transports=(Binding.UDP, Binding.QUIC)))
    return Frame.unpack(datagram, transport="udp")


def entry(frame: Frame, seen: int = 123) -> bytes:
    return add_proof(frame.payload, seen, frame.pack()[:44], frame.signature or b"")


def test_the_proof_gives_the_signed_bytes_back() -> None:
    frame = heard()
    found = verify_entry(entry(frame))
    assert found.proven, found.flaw
    assert found.seen == 123
    assert found.signed_ms == frame.nonce
    assert found.announce == Announce.unpack(frame.payload)
    assert found.announce.public_key == raw(key(1))


def test_the_tags_stand_last_and_decode() -> None:
    tags = Announce.unpack(entry(heard())).extensions[-2:]
    assert [type(t) for t in tags] == [RelaySeen, AnnounceProof]
    assert has_relay_tags(entry(heard()))
    assert not has_relay_tags(heard().payload)


def test_every_single_bit_is_under_the_proof() -> None:
    """But for when the relay heard it, which is the relay's word."""
    good = entry(heard())
    seen_at = len(good) - 112 - 8
    survivors = []
    for i in range(len(good)):
        bad = bytearray(good)
        bad[i] ^= 0x10
        try:
            if verify_entry(bytes(bad)).proven:
                survivors.append(i)
        except WireError:
            continue
    assert survivors == list(range(seen_at, seen_at + 8))


def test_a_proof_of_another_announcement_proves_nothing() -> None:
    one = heard()
    _, (datagram,) = announcing(key(2), at())
    other = Frame.unpack(datagram)
    stolen = add_proof(one.payload, 1, other.pack()[:44], other.signature or b"")
    assert not verify_entry(stolen).proven


def test_an_entry_without_a_proof_says_so() -> None:
    found = verify_entry(add_proof(heard().payload, 5, None, b""))
    assert (found.proven, found.seen, found.signed_ms) == (False, 5, None)
    assert verify_entry(heard().payload).flaw == "the relay has no proof of it"


@pytest.mark.parametrize("change", [{"msg_type": 3}, {"flags": FrameFlag.SIGNED | FrameFlag.COMPRESSED}])
def test_what_else_a_node_signed_proves_nothing(change: dict[str, int]) -> None:
    """The signature holds, of the very payload; it only is not of an ANNOUNCE as it stands."""
    other = sign_frame(heard().replace(**change), key(1))
    assert verify_entry(entry(other)).flaw == "the proof is not of a signed ANNOUNCE"


def test_only_the_last_relay_s_tags_come_off() -> None:
    twice = add_proof(add_proof(heard().payload, 1, None, b""), 2, None, b"")
    found = verify_entry(twice)
    assert found.seen == 2
    assert found.announce.extensions[-1] == RelaySeen(1)


@pytest.mark.parametrize("junk", [b"", b"junk", bytes(137), bytes(4096)])
def test_junk_is_a_wire_error(junk: bytes) -> None:
    with pytest.raises(WireError):
        verify_entry(junk)
