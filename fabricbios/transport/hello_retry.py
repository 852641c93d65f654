"""HelloRetryRequest, which aioquic's server lacks (RFC 8446, 4.1.4).

A client may send a key share only for a group it hopes for, a post-quantum one say, and name others it can
do. Stock aioquic turns it away, although both sides know X25519; a server asks once for the share it wants.
Written against the private parts of aioquic 1.7.2, as all of tls.py is.
"""

from __future__ import annotations

from aioquic import tls
from aioquic._buffer import Buffer
from cryptography.hazmat.primitives import hashes

# SHA-256("HelloRetryRequest"): the random that tells this ServerHello from any other (RFC 8446, 4.1.3)
RANDOM = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
MESSAGE_HASH = 254  # the type of the message that stands for the first ClientHello in the transcript (4.4.1)
COMPRESSION_NONE = 0


class HelloRetry:
    """The server's side of one handshake: `handle` stands where the context handles a ClientHello."""

    def __init__(self, context: tls.Context) -> None:
        self._context = context
        self._handle_hello = context._server_handle_hello
        self._transcript = b""  # what the handshake's hash starts with once we have asked again
        self._suite: tls.CipherSuite | None = None

    def handle(self, message: Buffer, initial: Buffer, handshake: Buffer) -> None:
        """Ask for another share where that helps, and only once; else let aioquic go on.

        A second hello that changes its mind about the cipher suite is an illegal_parameter alert (4.1.4).
        """
        hello = tls.pull_client_hello(message)
        end = message.tell()
        message.seek(0)
        if self._suite is None:
            group = self._missing_share(hello)
            suite = tls.negotiate(self._context._cipher_suites, hello.cipher_suites)
            if group is None or suite is None:
                self._handle_hello(message, initial, handshake)
                return
            self._ask_again(hello, message.data_slice(0, end), suite, group, initial)
        else:
            if tls.negotiate(self._context._cipher_suites, hello.cipher_suites) != self._suite:
                raise tls.AlertIllegalParameter("the second ClientHello has another cipher suite")
            self._handle_hello(self._with_transcript(message.data_slice(0, end)), initial, handshake)
        message.seek(end)

    def _missing_share(self, hello: tls.ClientHello) -> tls.Group | None:
        """Return the group to ask for, None where a share can be used or no group is common."""
        ours = self._context._supported_groups
        if hello.key_share is None or any(share[0] in ours for share in hello.key_share):
            return None
        preferred = sorted(ours, key=lambda group: group != tls.Group.X25519)
        return tls.negotiate(preferred, hello.supported_groups)

    def _ask_again(
        self, hello: tls.ClientHello, message: bytes, suite: tls.CipherSuite, group: tls.Group, initial: Buffer
    ) -> None:
        request = tls.ServerHello(
            random=RANDOM,
            legacy_session_id=hello.legacy_session_id,
            cipher_suite=suite,
            compression_method=COMPRESSION_NONE,
            supported_version=tls.TLS_VERSION_1_3,
            other_extensions=[(tls.ExtensionType.KEY_SHARE, int(group).to_bytes(2, "big"))],
        )
        start = initial.tell()
        tls.push_server_hello(initial, request)
        self._suite = suite
        self._transcript = _message_hash(suite, message) + initial.data_slice(start, initial.tell())

    def _with_transcript(self, message: bytes) -> Buffer:
        """aioquic hashes a buffer from its beginning and parses it from where it stands: the past goes before."""
        buffer = Buffer(data=self._transcript + message)
        buffer.seek(len(self._transcript))
        return buffer


def _message_hash(suite: tls.CipherSuite, message: bytes) -> bytes:
    digest = hashes.Hash(tls.cipher_suite_hash(suite))
    digest.update(message)
    value = digest.finalize()
    return bytes([MESSAGE_HASH]) + len(value).to_bytes(3, "big") + value
