"""Clients that lie about who they are: each ends as D3 says, is counted, and costs nobody else anything."""

from __future__ import annotations

import datetime
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from aioquic import tls
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from quic_rig import Rig, run, served, until

from fabricbios.errors import Disconnected, Untrusted
from fabricbios.transport import DEFAULTS, Identity, Link, PeerKey, accept_anyone, certificate
from fabricbios.transport.link import open_link
from fabricbios.transport.quic import ClientConnection, unix_now

YEAR = 365 * 86_400


class Der:
    """Stands for a certificate where only its bytes matter."""

    def __init__(self, der: bytes) -> None:
        self.der = der

    def public_bytes(self, encoding: object) -> bytes:
        return self.der


def liar(shown: Any, private_key: Any, chain: tuple[Any, ...] = ()) -> ClientConnection:
    """Return a client that shows `shown` and signs with `private_key`."""
    quic = ClientConnection(Identity.generate(), DEFAULTS, unix_now, accept_anyone)
    quic.configuration.certificate = shown
    quic.configuration.private_key = private_key
    quic.configuration.certificate_chain = list(chain)
    return quic


async def dial_as(quic: ClientConnection, rig: Rig) -> Link:
    return await open_link(("127.0.0.1", rig.port), quic, 5.0, DEFAULTS)


def foreign(key: Any) -> x509.Certificate:
    """A self-signed certificate as anybody makes one."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stranger")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
    return builder.not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())


def of_another() -> ClientConnection:
    return liar(Identity.generate().x509(), Identity.generate().private_key)


def rsa_key() -> ClientConnection:
    key = rsa.generate_private_key(65537, 2048)
    return liar(foreign(key), key)


def ecdsa_key() -> ClientConnection:
    key = ec.generate_private_key(ec.SECP256R1())
    return liar(foreign(key), key)


def dated(unix: int) -> ClientConnection:
    me = Identity.generate()
    return liar(certificate.make(me.private_key, unix), me.private_key)


def malformed(der: bytes) -> ClientConnection:
    return liar(Der(der), Identity.generate().private_key)


def truncated() -> ClientConnection:
    me = Identity.generate()
    return liar(Der(me.x509().public_bytes(certificate.Encoding.DER)[:-9]), me.private_key)


def wrong_version() -> ClientConnection:
    """X.509 version 7: the parser raises a type of its own for this one."""
    me = Identity.generate()
    der = me.x509().public_bytes(certificate.Encoding.DER)
    return liar(Der(der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)), me.private_key)


def resigned() -> ClientConnection:
    """The certificate's own signature is broken; the key would be proven."""
    me = Identity.generate()
    der = bytearray(me.x509().public_bytes(certificate.Encoding.DER))
    der[-1] ^= 1
    return liar(Der(bytes(der)), me.private_key)


def chained(*others: Any) -> ClientConnection:
    me = Identity.generate()
    return liar(me.x509(), me.private_key, others)


def skipping_certificate() -> ClientConnection:
    """Answers the CertificateRequest with nothing, not even an empty list."""

    class Skips(ClientConnection):
        def _initialize(self, peer_cid: bytes) -> None:
            super()._initialize(peer_cid)
            handle = self.tls._client_handle_certificate_request

            def skip(message: Any) -> None:
                handle(message)
                self.tls._certificate_request = None

            vars(self.tls).update(_client_handle_certificate_request=skip)

    return Skips(Identity.generate(), DEFAULTS, unix_now, accept_anyone)


LIARS: dict[str, tuple[Callable[[], ClientConnection], str]] = {
    "key of another": (of_another, "alert_decrypt_error"),
    "RSA": (rsa_key, "alert_unsupported_certificate"),
    "ECDSA": (ecdsa_key, "alert_unsupported_certificate"),
    "expired": (lambda: dated(int(time.time()) - 2 * YEAR), "alert_certificate_expired"),
    "not yet valid": (lambda: dated(int(time.time()) + YEAR), "alert_certificate_expired"),
    "no DER at all": (lambda: malformed(b"certificate"), "alert_bad_certificate"),
    "empty DER": (lambda: malformed(b""), "alert_bad_certificate"),
    "too long": (lambda: malformed(bytes(13000)), "alert_bad_certificate"),
    "truncated DER": (truncated, "alert_bad_certificate"),
    "version 7": (wrong_version, "alert_bad_certificate"),
    "signature of its own broken": (resigned, "alert_bad_certificate"),
    "garbage in a chain": (lambda: chained(Der(b"garbage")), "alert_bad_certificate"),
    "a chain that is too long": (lambda: chained(*[Identity.generate().x509()] * 45), "alert_bad_certificate"),
    "no Certificate message": (skipping_certificate, "alert_unexpected_message"),
}


@pytest.mark.parametrize("name", LIARS)
def test_a_lie_ends_in_an_alert_before_a_byte_is_served(name: str) -> None:
    make, counted = LIARS[name]

    async def body() -> None:
        async with served() as rig:
            link = await dial_as(make(), rig)  # TLS lets a client finish before its server has checked
            _, answer = link.ask(b"serve me")  # leaves in the first packet after Finished
            with pytest.raises(Disconnected):
                await answer
            assert rig.server.handshakes[counted] == 1, rig.server.handshakes
            assert rig.echo.opened == []
            assert rig.echo.asked == []
            await rig.assert_friend_is_served()

    run(body)


def test_a_certificate_without_its_verify_message_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mute:
        """Signs nothing; the message that would carry the signature is left out below."""

        def sign(self, data: bytes) -> bytes:
            return b""

    push = tls.push_certificate_verify
    monkeypatch.setattr(tls, "push_certificate_verify", lambda buf, verify: verify.signature and push(buf, verify))
    monkeypatch.setattr(
        tls.Context, "_signature_algorithms_for_private_key", lambda context: [tls.SignatureAlgorithm.ED25519]
    )

    async def body() -> None:
        async with served() as rig:
            link = await dial_as(liar(Identity.generate().x509(), Mute()), rig)
            _, answer = link.ask(b"serve me")
            with pytest.raises(Disconnected):
                await answer
            assert rig.server.handshakes == {"retry_sent": 1, "alert_unexpected_message": 1}
            assert rig.echo.asked == []

    run(body)


def test_a_client_without_a_certificate_is_named_nobody() -> None:
    async def body() -> None:
        async with served() as rig:
            link = await rig.dial(None)
            assert await link.request(b"ping") == b"ping"
            peer = rig.echo.opened[0]
            assert (peer.public_key, peer.node_id, peer.certificate) == (b"", 0, b"")
            assert rig.server.handshakes == {"retry_sent": 1, "no_certificate": 1}

    run(body)


def test_a_proven_client_is_named_by_its_key_and_shows_its_certificate() -> None:
    async def body() -> None:
        async with served() as rig:
            me = Identity(Identity.generate().private_key, b"signed by a controller")
            link = await rig.dial(me)
            assert await link.request(b"ping") == b"ping"
            peer = rig.echo.asked[0][1]
            assert (peer.public_key, peer.node_id) == (me.public_key, me.node_id)
            assert peer.certificate == b"signed by a controller"
            assert peer.local == ("127.0.0.1", rig.port)

    run(body)


def test_of_a_chain_only_the_first_certificate_counts() -> None:
    """Some stacks send what their file holds (RFC 8446, 4.4.2); and 8 KiB are not too long."""

    async def body() -> None:
        async with served() as rig:
            quic = chained(Identity.generate().x509(), Identity(Identity.generate().private_key, bytes(8000)).x509())
            link = await dial_as(quic, rig)
            assert await link.request(b"ping") == b"ping"
            shown = certificate.raw_key(quic.configuration.certificate.public_key())
            assert (rig.echo.opened[0].public_key, rig.echo.opened[0].certificate) == (shown, b"")
            link.close()

    run(body)


def test_no_ticket_is_given_and_an_invented_one_resumes_nothing() -> None:
    now = datetime.datetime.now(datetime.UTC)
    invented = tls.SessionTicket(
        age_add=0, cipher_suite=tls.CipherSuite.AES_128_GCM_SHA256, server_name="node", ticket=b"t" * 64,
        not_valid_before=now - datetime.timedelta(hours=1), not_valid_after=now + datetime.timedelta(hours=1),
        resumption_secret=bytes(32), max_early_data_size=0xFFFFFFFF,
    )  # fmt: skip
    tickets: list[object] = []

    async def body() -> None:
        async with served() as rig:
            quic = ClientConnection(None, DEFAULTS, unix_now, accept_anyone)
            quic.configuration.server_name, quic.configuration.session_ticket = "node", invented
            quic._session_ticket_handler = tickets.append
            link = await dial_as(quic, rig)
            assert await link.request(b"ping") == b"ping"
            assert not quic.tls.session_resumed
            assert not quic.tls.early_data_accepted
            assert tickets == []
            assert rig.server.handshakes["no_certificate"] == 1

    run(body)


def test_early_data_is_never_served() -> None:
    """0-RTT packets sent along with the Initial: the server has no key for them and never makes one."""
    now = datetime.datetime.now(datetime.UTC)
    parameters = ClientConnection(None, DEFAULTS, unix_now, accept_anyone)
    parameters._version = 1
    remembered = [(tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS, parameters._serialize_transport_parameters())]
    ticket = tls.SessionTicket(
        age_add=0, cipher_suite=tls.CipherSuite.AES_128_GCM_SHA256, server_name="node", ticket=b"t" * 64,
        not_valid_before=now - datetime.timedelta(hours=1), not_valid_after=now + datetime.timedelta(hours=1),
        resumption_secret=bytes(32), max_early_data_size=0xFFFFFFFF, other_extensions=remembered,
    )  # fmt: skip

    async def body() -> None:
        async with served() as rig:
            quic = liar(Identity.generate().x509(), Identity.generate().private_key)
            quic.configuration.server_name, quic.configuration.session_ticket = "node", ticket
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            sock.connect(("127.0.0.1", rig.port))
            link = Link(quic, sock, ("127.0.0.1", rig.port), DEFAULTS)
            quic._remote_max_data = quic._remote_max_stream_data_bidi_remote = 1 << 20
            quic._remote_max_streams_bidi = 8
            quic.connect(link.remote, link._loop.time())
            quic.send_stream_data(0, b"early", end_stream=True)
            link._transmit()
            await until(lambda: rig.server.handshakes["alert_decrypt_error"] == 1)
            assert rig.echo.asked == []
            link.close()

    run(body)


def test_a_client_refuses_a_node_with_another_key() -> None:
    def only(expected: bytes) -> Callable[[PeerKey], None]:
        def accept(key: PeerKey) -> None:
            if key.public_key != expected:
                raise Untrusted("not the node that was pinned")

        return accept

    async def body() -> None:
        async with served() as rig:
            quic = ClientConnection(rig.friend, DEFAULTS, unix_now, only(bytes(32)))
            with pytest.raises(Untrusted, match="pinned"):
                await dial_as(quic, rig)
            await until(lambda: rig.server.connections == 0)
            assert rig.echo.asked == []
            good = ClientConnection(rig.friend, DEFAULTS, unix_now, only(rig.server.identity.public_key))
            assert await (await dial_as(good, rig)).request(b"x") == b"x"

    run(body)


def test_a_client_refuses_a_node_that_cannot_prove_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with served() as rig:
            shown = Identity.generate().x509()
            monkeypatch.setattr(rig.server.identity, "x509", lambda unix: shown)
            with pytest.raises(Disconnected):
                await rig.dial()

    run(body)
