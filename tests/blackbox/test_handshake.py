"""D3 at the door: who gets in, who gets PING and GET_IDENTITY, whom a TLS alert sends away."""

import os
import socket
import struct

import pytest
from blackbox import codec
from blackbox.codec import INSUFFICIENT_PERM, OK
from blackbox.keys import Key, ec_key, id_of, malformed_der, private_pem, rsa_key, x509_pem
from blackbox.quic import Peer, RawCertificate

ALERTS = range(0x100, 0x200)
"""QUIC's CRYPTO_ERROR: 0x100 and the TLS alert."""


def served_little(peer: Peer, node_id: int) -> None:
    """PING and GET_IDENTITY are answered, everything else INSUFFICIENT_PERM."""
    assert len(peer.done(codec.PING)) == 8
    assert int.from_bytes(peer.done(codec.GET_IDENTITY)[:16], "big") == node_id
    lease = codec.u128(1)
    for op, params in (
        (codec.GET_INVENTORY, b""), (codec.GET_BUILD_INFO, b""), (codec.GET_THERMAL, b""), (codec.TIME_SYNC,
        codec.u64(1)),
        (codec.CAP_REQUEST, codec.u32(1) + codec.u32(1) + codec.u128(0)), (codec.FENCE_GET, b""),
        (codec.LIST_ACTIVE, b""),
        (codec.QUERY, lease), (codec.FREE, lease), (codec.ATTACH, lease), (codec.ALLOC, codec.alloc(1)),
        (codec.RENEW, lease + codec.u32(1)), (codec.REVOKE, lease + codec.u32(0)), (codec.FENCE_SET, codec.u64(1)),
        (codec.CAP_REFRESH, codec.u32(1)), (codec.CAP_REVOKE, lease + codec.u32(1)), (codec.FENCE_CLEAR, lease),
    ):  # fmt: skip
        assert peer.refused(op, params) == INSUFFICIENT_PERM, hex(op)


def sent_away(world, pems, der: bytes | None = None) -> int:
    """Connect; return the TLS alert. A request sent along must find no answer."""
    with Peer(world.control, pems) as peer:
        if der is not None:
            assert peer.pump(lambda: peer.quic._retry_count == 1)  # after Retry it starts anew from its configuration
            peer.quic.tls.certificate = RawCertificate(der)
        stream = peer.open(codec.frame(codec.REQUEST, codec.request(codec.PING)))
        assert peer.pump(lambda: peer.closed is not None), "not closed"
        assert peer.closed.error_code in ALERTS, peer.closed
        assert not peer.streams[stream].data
        return peer.closed.error_code - 0x100


def test_the_server_asks_retries_and_issues_no_tickets(world):
    with world.peer(world.owner) as peer:
        assert peer.quic._retry_count == 1
        assert peer.quic.tls._certificate_request is not None
        peer.done(codec.PING)
        assert not peer.tickets
        assert not peer.quic.tls.session_resumed
        assert not peer.quic.tls.early_data_accepted


def test_its_certificate_is_its_identity(world):
    assert id_of(world.public_key()) == world.node.node_id


def test_without_a_certificate(world):
    with world.peer(None) as peer:
        served_little(peer, world.node.node_id)


def test_with_a_key_nobody_knows(world):
    with world.peer(Key.new()) as peer:
        served_little(peer, world.node.node_id)


def test_pinned(world, owner):
    assert owner.ask(codec.GET_INVENTORY).status == OK


def certified_by(world, **fields) -> tuple[Key, bytes]:
    key = Key.new()
    return key, codec.certificate(key, fields.pop("issuer", world.controller), **fields)


def test_certified(world):
    key, certificate = certified_by(world)
    with Peer.of(world.control, key, certificate) as peer:
        peer.done(codec.GET_INVENTORY)
        assert peer.token(codec.P_ALLOC).perms == codec.P_ALLOC


@pytest.mark.parametrize("wrong", ["stranger", "expired", "not yet", "another key", "bad signature", "garbage"])
def test_certified_wrongly_is_not_trusted(world, wrong):
    key, certificate = certified_by(world)
    if wrong == "stranger":
        certificate = codec.certificate(key, Key.new())
    elif wrong == "expired":
        certificate = codec.certificate(key, world.controller, starts=-3600, ends=-60)
    elif wrong == "not yet":
        certificate = codec.certificate(key, world.controller, starts=3600, ends=7200)
    elif wrong == "another key":
        certificate = codec.certificate(Key.new(), world.controller)
    elif wrong == "bad signature":
        certificate = codec.certificate(key, world.controller, signer=Key.new())
    else:
        certificate = os.urandom(len(certificate))
    with Peer.of(world.control, key, certificate) as peer:
        served_little(peer, world.node.node_id)


def test_a_key_that_is_not_proven(world):
    """The owner's certificate, somebody else's private key."""
    alert = sent_away(world, (x509_pem(world.owner.private), private_pem(Key.new().private)))
    assert alert == 51  # decrypt_error


@pytest.mark.parametrize("dates", [{"starts": -7200, "ends": -3600}, {"starts": 3600, "ends": 7200}])
def test_outside_its_dates(world, dates):
    assert sent_away(world, (x509_pem(world.owner.private, **dates), private_pem(world.owner.private))) in (42, 45)


def test_not_ed25519(world):
    for key in (rsa_key(), ec_key()):
        sent_away(world, (x509_pem(key), private_pem(key)))


def test_an_ed25519_key_certified_by_rsa(world):
    """An Ed25519 key in a certificate that it did not sign itself."""
    pems = x509_pem(world.owner.private, signer=Key.new().private), private_pem(world.owner.private)
    sent_away(world, pems)


def test_malformed(world):
    pems = x509_pem(world.owner.private), private_pem(world.owner.private)
    sent_away(world, pems, malformed_der(world.owner.private))
    sent_away(world, pems, b"\x30\x82garbage")


def test_junk_is_not_amplified(world):
    """An Initial from an address that proved nothing draws a Retry, shorter than itself; junk draws nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("127.0.0.1", world.control))
        s.settimeout(0.3)
        s.send(os.urandom(1200))
        with pytest.raises(TimeoutError):
            s.recv(65536)
        initial = b"\xc0" + struct.pack(">I", 1) + b"\x08" + os.urandom(8) + b"\x08" + os.urandom(8) + b"\0\x44\x90"
        s.settimeout(10)
        s.send(initial.ljust(1200, b"\1"))
        retry = s.recv(65536)
        assert len(retry) < 400
        assert retry[0] & 0xF0 == 0xF0


def test_another_protocol_is_refused(world):
    with Peer(world.control, alpn="h3") as peer:
        assert peer.pump(lambda: peer.closed is not None)
        assert peer.closed.error_code == 0x100 + 120  # no_application_protocol
