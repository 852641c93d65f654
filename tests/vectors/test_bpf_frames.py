"""What stands around a datagram: VLAN, IPv6, fragments, options, lengths that lie, frames for others."""

import os
import struct
from collections.abc import Iterator

import pytest
from fbmu_rig import KEY, LEASE, LEASE_ID, question, read, write
from xdp_rig import BYTES, PORT, XdpRig, require_bpf

from fabricbios.dataplane.slab import SLAB_BYTES
from fabricbios.dataplane.slots import Extent
from fabricbios.dataplane.xdp_frame import strip, wrap
from fabricbios.hw.bpf import XdpAction
from fabricbios.model import DpAuth, DpOp
from fabricbios.wire import Tagger, question_message

OUR_MAC, OTHER_MAC, PEER_MAC = b"\x02\x00\x00\x00\x00\x01", b"\x02\x00\x00\x00\x00\x99", b"\x02\x00\x00\x00\x00\x02"
V4_PEER, V4_OURS = bytes((10, 0, 0, 2)), bytes((10, 0, 0, 1))
V6_PEER, V6_OURS = bytes(15) + b"\x02", bytes(15) + b"\x01"
TAGGED = struct.pack(">HH", 0x8100, 0x6005)
LOOPBACK = 1  # what a test run has for an interface


@pytest.fixture(scope="module")
def rig() -> Iterator[XdpRig]:
    require_bpf()
    rig = XdpRig()
    yield rig
    rig.close()


@pytest.fixture(autouse=True)
def _fresh(rig: XdpRig) -> None:
    rig.fresh()
    rig.open()
    rig.memory.view[:] = os.urandom(BYTES)


def folded(data: bytes) -> int:
    """Return the one's complement sum of RFC 1071, 0xffff where the checksum in it is right."""
    words = struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def udp(datagram: bytes, port: int = PORT, said: int | None = None) -> bytes:
    length = 8 + len(datagram)
    return struct.pack(">HHHH", 40000, port, length if said is None else said, 0) + datagram


def v4(carried: bytes, *, frag: int = 0, options: bytes = b"", total: int | None = None, protocol: int = 17) -> bytes:
    length = 20 + len(options) + len(carried)
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45 + len(options) // 4, 0, total or length, 1, frag, 9, protocol, 0, V4_PEER, V4_OURS
    )
    return head + options + carried


def v6(carried: bytes, *, header: int = 17, said: int | None = None) -> bytes:
    length = len(carried) if said is None else said
    return struct.pack(">IHBB", 6 << 28, length, header, 9) + V6_PEER + V6_OURS + carried


def ethernet(packet: bytes, *, vlan: bytes = b"", to: bytes = OUR_MAC) -> bytes:
    kind = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
    return to + PEER_MAC + vlan + kind + packet


@pytest.mark.parametrize("vlan", [b"", TAGGED, struct.pack(">HH", 0x88A8, 7)], ids=["plain", "802.1Q", "802.1ad"])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("length", [1, 2, 3, 5, 64, 1387, 1388])
def test_the_answer_goes_back_the_way_the_question_came(rig: XdpRig, vlan: bytes, family: int, length: int) -> None:
    asked = udp(read(3, length, 1, max(0, length - 4)))
    done = rig.run(ethernet((v4 if family == 4 else v6)(asked), vlan=vlan))
    assert done.action == XdpAction.TX, rig.drops()
    assert done.packet[:12] == PEER_MAC + OUR_MAC
    assert done.packet[12 : 12 + len(vlan)] == vlan
    packet = done.packet[14 + len(vlan) :]
    size = 20 if family == 4 else 40
    head, carried = packet[:size], packet[size:]
    assert struct.unpack(">HHH", carried[:6]) == (PORT, 40000, len(carried))
    if family == 4:
        assert folded(head) == 0xFFFF
        assert head[12:] == V4_OURS + V4_PEER
        assert struct.unpack_from(">H", head, 2)[0] == len(packet)
        assert carried[6:8] == bytes(2)
    else:
        assert head[8:] == V6_OURS + V6_PEER
        assert struct.unpack_from(">H", head, 4)[0] == len(carried)
        assert carried[6:8] != bytes(2)
        assert folded(head[8:] + struct.pack(">II", len(carried), 17) + carried) == 0xFFFF
    assert carried[8 + 64 :] == bytes(rig.memory.view[4096 + 3 : 4096 + 3 + length])


SOUND = udp(read(0, 64, 1, 60))
PASSED = {
    "ARP": OUR_MAC + PEER_MAC + b"\x08\x06" + bytes(28),
    "no Ethernet": b"\x02" * 14,
    "TCP": ethernet(v4(SOUND, protocol=6)),
    "another port": ethernet(v4(udp(read(0, 64), 5701))),
    "IPv4 options": ethernet(v4(SOUND, options=bytes(4))),
    "two VLAN tags": ethernet(v4(SOUND), vlan=TAGGED + TAGGED),
    "a later fragment": ethernet(v4(SOUND, frag=0x0001)),
    "IPv6 fragment header": ethernet(v6(bytes(8) + SOUND, header=44)),
    "an IPv4 header cut off": ethernet(v4(SOUND))[:30],
    "IPv4 that says it is IPv6": OUR_MAC + PEER_MAC + b"\x86\xdd" + v4(SOUND),
}
DROPPED = {
    "a first fragment": (ethernet(v4(SOUND, frag=0x2000)), "fragment"),
    "a UDP length too long": (ethernet(v4(udp(read(0, 64, 1, 60), said=200))), "malformed"),
    "a UDP length too short": (ethernet(v4(udp(read(0, 64, 1, 60), said=100))), "malformed"),
    "an IP length beyond the frame": (ethernet(v4(SOUND, total=1000)), "malformed"),
    "an IP length of 20": (ethernet(v4(SOUND, total=20)), "malformed"),
    "an IPv6 length beyond the frame": (ethernet(v6(SOUND, said=1000)), "malformed"),
    "an IPv6 length of 0": (ethernet(v6(SOUND, said=0)), "malformed"),
    "no payload": (ethernet(v4(udp(b""))), "malformed"),
    "1453 bytes on IPv6": (ethernet(v6(udp(read(0, 64, 1, 1453 - 68)))), "malformed"),
    "1473 bytes on IPv4": (ethernet(v4(udp(read(0, 64, 1, 1473 - 68)))), "malformed"),
    "an unknown lease": (ethernet(v4(udp(read(0, 64, lease_id=1)))), "unknown_lease"),
    "FBBU on FBMU's port": (ethernet(v4(udp(question(DpOp.PING, head=b"FBBU\x01")))), "malformed"),
}


@pytest.mark.parametrize("frame", PASSED.values(), ids=PASSED)
def test_what_is_not_for_the_program_passes_as_it_came(rig: XdpRig, frame: bytes) -> None:
    done = rig.run(frame)
    assert (done.action, done.packet, rig.drops()) == (XdpAction.PASS, frame, {})


@pytest.mark.parametrize(("frame", "reason"), DROPPED.values(), ids=DROPPED)
def test_what_is_wrong_is_dropped_and_counted(rig: XdpRig, frame: bytes, reason: str) -> None:
    assert rig.run(frame).action == XdpAction.DROP
    assert rig.drops() == {reason: 1}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("length", [1, 8, 9, 511, 1384])
def test_damaged_data_that_no_tag_covers_is_dropped(rig: XdpRig, family: int, length: int) -> None:
    rig.open(LEASE._replace(lease_id=LEASE_ID + 1, auth=DpAuth.HMAC_HEADER))
    how = {"lease_id": LEASE_ID + 1, "auth": DpAuth.HMAC_HEADER}
    for nonce, damage, partial, action in (
        (1, 0, False, XdpAction.TX),
        (2, 1, False, XdpAction.DROP),
        (3, 0, True, XdpAction.TX),  # what a sender on this machine leaves to its network card
    ):
        carried = bytearray(udp(write(0, os.urandom(length), nonce, **how)))
        addresses = V4_PEER + V4_OURS if family == 4 else V6_PEER + V6_OURS
        pseudo = addresses + struct.pack(">II", len(carried), 17)
        total = folded(pseudo if partial else pseudo + bytes(carried))
        struct.pack_into(">H", carried, 6, total if partial else 0xFFFF - total or 0xFFFF)
        carried[-1] ^= damage
        assert rig.run(ethernet((v4 if family == 4 else v6)(bytes(carried)))).action == action, nonce
    assert rig.drops() == {"checksum": 1}


@pytest.mark.parametrize("auth", DpAuth)
@pytest.mark.parametrize("vlan", [b"", TAGGED], ids=["plain", "802.1Q"])
@pytest.mark.parametrize("length", [1, 2, 64, 511, 1388])
def test_an_ipv4_answer_has_a_checksum_where_no_tag_covers_its_data(
    rig: XdpRig, auth: DpAuth, vlan: bytes, length: int
) -> None:
    rig.open(LEASE._replace(lease_id=LEASE_ID + 2, auth=auth))
    asked = read(1, length, 1, max(0, length - 4), lease_id=LEASE_ID + 2, auth=auth)
    done = rig.run(ethernet(v4(udp(asked)), vlan=vlan))
    assert done.action == XdpAction.TX, rig.drops()
    carried = done.packet[14 + len(vlan) + 20 :]
    if auth is DpAuth.HMAC_HEADER:
        assert carried[6:8] != bytes(2)
        assert folded(V4_OURS + V4_PEER + struct.pack(">II", len(carried), 17) + carried) == 0xFFFF
    else:
        assert carried[6:8] == bytes(2)


def test_the_edges_of_the_family_limits_are_served(rig: XdpRig) -> None:
    assert rig.run(ethernet(v6(udp(read(0, 64, 1, 1452 - 68))))).action == XdpAction.TX
    assert rig.run(ethernet(v4(udp(read(0, 64, 2, 1472 - 68))))).action == XdpAction.TX


def test_ethernet_padding_behind_a_datagram_is_no_part_of_it(rig: XdpRig) -> None:
    done = rig.run(ethernet(v4(udp(question(DpOp.PING)))) + bytes(6))
    assert done.action == XdpAction.TX
    assert len(done.packet) == 14 + 20 + 8 + 56


def test_questions_of_other_nodes_pass_through_a_bridge(rig: XdpRig) -> None:
    rig.maps.set_station(LOOPBACK, OUR_MAC)
    foreign = udp(read(0, 64, lease_id=1))
    assert rig.run(ethernet(v4(foreign), to=OTHER_MAC)).action == XdpAction.PASS
    assert rig.run(ethernet(v4(foreign), to=OUR_MAC)).action == XdpAction.DROP
    assert rig.drops() == {"unknown_lease": 1}
    rig.maps.forget_station(LOOPBACK)


def test_every_lease_of_a_full_table_is_found(rig: XdpRig) -> None:
    ids = [int.from_bytes(os.urandom(16), "big") for _ in range(15)]
    for lease_id in ids:
        rig.open(LEASE._replace(lease_id=lease_id))
    for lease_id in ids:
        assert rig.ask(read(0, 64, 1, 60, lease_id=lease_id)) is not None
    rig.table.clear(ids[3], 0)
    assert rig.ask(read(0, 64, 2, 60, lease_id=ids[3])) is None
    assert all(rig.ask(read(0, 64, 2, 60, lease_id=i)) is not None for i in ids if i != ids[3])


def test_expiry_holds_by_the_clock_alone(rig: XdpRig) -> None:
    slot = rig.table.find(LEASE_ID)
    assert slot is not None
    rig.table.set_expiry(slot, 1)
    refused = rig.ask(write(0, b"late", 1))
    assert refused is not None
    assert refused[56] == 2  # EXPIRED
    rig.table.set_expiry(slot, 1 << 62)
    renewed = rig.ask(write(0, b"kept", 2))
    assert renewed is not None
    assert renewed[56] == 0
    assert bytes(rig.memory.view[4096:4100]) == b"kept"


def test_a_lease_may_lie_across_two_slabs() -> None:
    require_bpf()
    rig = XdpRig(capacity=SLAB_BYTES + 4096)
    try:
        rig.open(LEASE._replace(extent=Extent(SLAB_BYTES - 4096, 8192)))
        data = os.urandom(1404)
        for nonce, offset in enumerate((4096 - 700, 4096 - 1, 4096 - 1404, 4096, 8192 - 1404), 1):
            rig.memory.view[SLAB_BYTES - 4096 : SLAB_BYTES + 4096] = bytes(8192)
            wrote = rig.ask(write(offset, data, 2 * nonce))
            assert wrote is not None
            assert wrote[56] == 0
            expected = bytes(offset) + data + bytes(8192 - offset - 1404)
            assert bytes(rig.memory.view[SLAB_BYTES - 4096 : SLAB_BYTES + 4096]) == expected
            got = rig.ask(read(offset, 1404, 2 * nonce + 1, 1400))
            assert got is not None
            assert got[64:] == data
    finally:
        rig.close()


def test_strip_undoes_wrap() -> None:
    for family in (False, True):
        assert strip(wrap(b"datagram", PORT, v6=family), v6=family) == b"datagram"


def test_an_answer_tag_is_over_the_answer(rig: XdpRig) -> None:
    for auth in (DpAuth.HMAC_FULL, DpAuth.BLAKE2S_FULL, DpAuth.SIPHASH_FULL):
        lease_id = LEASE_ID + 100 + auth
        rig.open(LEASE._replace(lease_id=lease_id, auth=auth))
        for length in range(1, 200):
            answer = rig.ask(read(0, length, length, length, lease_id=lease_id, auth=auth))
            assert answer is not None
            assert answer[40:56] == Tagger(auth, KEY).tag(question_message(answer, auth))
