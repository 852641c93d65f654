"""A client whose key share the node cannot use is asked for another one (RFC 8446, 4.1.4).

OpenSSL 3.5 with the groups `*X25519MLKEM768/X25519` is such a client, as is picoquic with a post-quantum group first.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from aioquic import tls
from aioquic._buffer import Buffer

from fabricbios.model import ALPN
from fabricbios.transport import Identity, accept_anyone
from fabricbios.transport.hello_retry import MESSAGE_HASH, RANDOM
from fabricbios.transport.quic import unix_now
from fabricbios.transport.tls import PeerProof, ask_for_certificate, check_server

MLKEM = 0x11EC
POST_QUANTUM = [(MLKEM, bytes(1216))]
SUITES = [tls.CipherSuite.AES_128_GCM_SHA256, tls.CipherSuite.AES_256_GCM_SHA384]
Change = Callable[[tls.ClientHello], None]


def buffers() -> dict[tls.Epoch, Buffer]:
    return {epoch: Buffer(capacity=8192) for epoch in (tls.Epoch.INITIAL, tls.Epoch.HANDSHAKE, tls.Epoch.ONE_RTT)}


class Handshake:
    """Both sides' TLS contexts, with the messages between them in the test's hands."""

    def __init__(self, suite: tls.CipherSuite) -> None:
        node, asker = Identity.generate(), Identity.generate()
        self.asker = asker
        self.server = tls.Context(is_client=False, alpn_protocols=[ALPN])
        self.server.certificate, self.server.certificate_private_key = node.x509(), node.private_key
        self.client = tls.Context(is_client=True, alpn_protocols=[ALPN], verify_mode=0)
        self.client.certificate, self.client.certificate_private_key = asker.x509(), asker.private_key
        self.proof = PeerProof()
        for context in (self.server, self.client):
            context.update_traffic_key_cb = lambda *_: None
            context.handshake_extensions = []
        ask_for_certificate(self.server, self.proof, unix_now)
        check_server(self.client, PeerProof(), unix_now, accept_anyone)
        self.client._cipher_suites = [suite]
        out = buffers()
        self.client.handle_message(b"", out)
        self.hello = out[tls.Epoch.INITIAL].data

    def hello_with(self, change: Change) -> bytes:
        hello = tls.pull_client_hello(Buffer(data=self.hello))
        change(hello)
        buffer = Buffer(capacity=8192)
        tls.push_client_hello(buffer, hello)
        return buffer.data

    def to_server(self, message: bytes) -> dict[tls.Epoch, Buffer]:
        out = buffers()
        self.server.handle_message(message, out)
        return out

    def rewrite_history(self, *messages: bytes) -> None:
        """Make the client's transcript what it would be, had it sent its hello second."""
        self.client._key_schedule_proxy = tls.KeyScheduleProxy(self.client._cipher_suites)
        self.client._key_schedule_proxy.extract(None)
        for message in messages:
            self.client._key_schedule_proxy.update_hash(message)


def only_post_quantum(hello: tls.ClientHello) -> None:
    hello.key_share = POST_QUANTUM
    hello.supported_groups = [MLKEM, *(hello.supported_groups or [])]


@pytest.mark.parametrize("suite", SUITES)
def test_the_handshake_ends_well_with_the_share_that_was_asked_for(suite: tls.CipherSuite) -> None:
    both = Handshake(suite)
    first = both.hello_with(only_post_quantum)
    out = both.to_server(first)
    request = out[tls.Epoch.INITIAL].data
    assert not out[tls.Epoch.HANDSHAKE].data
    assert request[6:38] == RANDOM
    assert request.endswith(bytes.fromhex("002b0002030400330002001d"))  # TLS 1.3, X25519
    out = both.to_server(both.hello)
    digest = tls.hashes.Hash(tls.cipher_suite_hash(suite))
    digest.update(first)
    value = digest.finalize()
    both.rewrite_history(bytes([MESSAGE_HASH, 0, 0, len(value)]) + value, request, both.hello)
    answer = buffers()
    both.client.handle_message(out[tls.Epoch.INITIAL].data, answer)
    both.client.handle_message(out[tls.Epoch.HANDSHAKE].data, answer)
    both.to_server(answer[tls.Epoch.HANDSHAKE].data)
    assert both.server.state == tls.State.SERVER_POST_HANDSHAKE
    assert both.proof.key is not None
    assert both.proof.key.public_key == both.asker.public_key


def test_a_share_that_can_be_used_is_used_at_once() -> None:
    both = Handshake(SUITES[0])

    def more(hello: tls.ClientHello) -> None:
        hello.key_share = POST_QUANTUM + (hello.key_share or [])

    assert both.to_server(both.hello_with(more))[tls.Epoch.HANDSHAKE].data


def test_nobody_is_asked_twice() -> None:
    both = Handshake(SUITES[0])
    both.to_server(both.hello_with(only_post_quantum))
    with pytest.raises(tls.AlertHandshakeFailure):
        both.to_server(both.hello_with(only_post_quantum))


def test_no_group_in_common_is_a_handshake_failure() -> None:
    both = Handshake(SUITES[0])

    def alone(hello: tls.ClientHello) -> None:
        hello.key_share, hello.supported_groups = POST_QUANTUM, [MLKEM]

    with pytest.raises(tls.AlertHandshakeFailure):
        both.to_server(both.hello_with(alone))


def test_another_suite_in_the_second_hello_is_illegal() -> None:
    both = Handshake(SUITES[0])
    both.to_server(both.hello_with(only_post_quantum))

    def other(hello: tls.ClientHello) -> None:
        hello.cipher_suites = [int(SUITES[1])]

    with pytest.raises(tls.AlertIllegalParameter):
        both.to_server(both.hello_with(other))
