"""The strict half of mutual TLS that aioquic leaves out (D3, facts.md "QUIC in Python").

aioquic never verifies a client's certificate, and a check in HandshakeCompleted comes too late: a
request that rides with Finished would be answered first. So the check is put where the Certificate
and CertificateVerify messages are handled; an alert raised there ends the handshake, and no key for
the peer's streams exists yet. Written against aioquic 1.7.2; `pyproject.toml` pins it.
"""

from __future__ import annotations

from collections.abc import Callable

from aioquic import tls
from aioquic._buffer import Buffer

from fabricbios.errors import Untrusted
from fabricbios.transport import certificate
from fabricbios.transport.certificate import PeerKey
from fabricbios.transport.hello_retry import HelloRetry

Clock = Callable[[], int]
NOBODY = PeerKey(b"", b"")


class PeerProof:
    """What the handshake has proved about the other side.

    `key` is None until something is proved; then a PeerKey whose private half the peer holds, or
    NOBODY for a client without a certificate. `refusal` is why a client turned its server down.
    """

    def __init__(self) -> None:
        self.key: PeerKey | None = None
        self.refusal: Untrusted | None = None


def ask_for_certificate(context: tls.Context, proof: PeerProof, clock: Clock) -> None:
    """Make a server's context demand, check and record the client's certificate."""
    context._request_client_certificate = True
    _prefer_fast_suites(context)
    handle_certificate = context._server_handle_certificate
    handle_verify = context._server_handle_certificate_verify
    claimed = NOBODY

    def check_certificate(message: Buffer) -> None:
        nonlocal claimed
        claimed = _claim(message, clock())
        handle_certificate(message)
        if claimed is NOBODY:
            proof.key = NOBODY

    def check_verify(message: Buffer) -> None:
        handle_verify(message)
        proof.key = claimed

    vars(context).update(
        _server_handle_hello=HelloRetry(context).handle,
        _server_handle_certificate=check_certificate,
        _server_handle_certificate_verify=check_verify,
    )


def check_server(context: tls.Context, proof: PeerProof, clock: Clock, accept: Callable[[PeerKey], None]) -> None:
    """Make a client's context demand an Ed25519 certificate that is proven and that `accept` takes.

    `accept` raises Untrusted; it is called after CertificateVerify held and before anything is sent.
    """
    _offer_only_ours(context)
    handle_certificate = context._client_handle_certificate
    handle_verify = context._client_handle_certificate_verify
    claimed = NOBODY

    def check_certificate(message: Buffer) -> None:
        nonlocal claimed
        claimed = _claim(message, clock())
        handle_certificate(message)

    def check_verify(message: Buffer) -> None:
        handle_verify(message)
        try:
            accept(claimed)
        except Untrusted as error:
            proof.refusal = error
            raise tls.AlertBadCertificate(str(error)) from error
        proof.key = claimed

    vars(context).update(_client_handle_certificate=check_certificate, _client_handle_certificate_verify=check_verify)


def _claim(message: Buffer, unix: int) -> PeerKey:
    """Read a Certificate message and rewind it. An empty list is no certificate.

    Only the first counts: D3 knows no chains, and what else a peer may send is no reason to turn it away
    (RFC 8446, 4.4.2: "be prepared to handle potentially extraneous certificates").
    """
    chain = [der for der, _ in tls.pull_certificate(message).certificates]
    message.seek(0)
    if not chain:
        return NOBODY
    if sum(map(len, chain)) > certificate.MAX_DER:
        raise tls.AlertBadCertificate("certificates are too long")
    for extraneous in chain[1:]:
        certificate.parse(extraneous)
    return certificate.read(chain[0], unix)


def _prefer_fast_suites(context: tls.Context) -> None:
    """The server asks with every signature algorithm, so that a client with an RSA key sends its certificate
    and gets the alert of D3, instead of silently coming without one."""
    suites = tls.CipherSuite
    context._cipher_suites = [
        suites.AES_128_GCM_SHA256,
        suites.AES_256_GCM_SHA384,
        suites.CHACHA20_POLY1305_SHA256,
    ]


def _offer_only_ours(context: tls.Context) -> None:
    """One key share instead of four saves a client 0.5 ms and 200 bytes of its first flight."""
    _prefer_fast_suites(context)
    context._signature_algorithms = [tls.SignatureAlgorithm.ED25519]
    context._supported_groups = [tls.Group.X25519]
