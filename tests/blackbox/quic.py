"""A QUIC client on qh3 (its packets and loss recovery are Rust): another stack than the one the daemon runs on.

Blocking, one socket, one connection: a test reads like a transcript. qh3 does no I/O by itself here.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from blackbox import codec
from blackbox.codec import Answer, Frame
from blackbox.keys import Key, private_pem, x509_pem
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection
from qh3.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from qh3.tls import SignatureAlgorithm

PATIENCE = 60.0
"""Seconds until an answer counts as none: a busy machine is slow, a correct one is not silent."""


class RawCertificate(NamedTuple):
    """Stands where qh3 keeps a parsed certificate, and is sent as these very bytes."""

    der: bytes

    def public_bytes(self) -> bytes:
        return self.der


@dataclass
class Stream:
    data: bytearray = field(default_factory=bytearray)
    finished: bool = False
    reset: int | None = None
    stopped: int | None = None

    @property
    def over(self) -> bool:
        return self.finished or self.reset is not None


class Silence(AssertionError):
    """Nothing came in time."""


class Peer:
    """One connection. `pems` is (certificate, private key), None for no certificate at all."""

    def __init__(
        self, port: int, pems: tuple[bytes, bytes] | None = None, sender: int = 0, alpn: str = "fabricbios/0"
    ) -> None:
        self.sender = sender
        self.tickets: list[object] = []
        self.streams: dict[int, Stream] = {}
        self.closed: ConnectionTerminated | None = None
        self.shaken = False
        configuration = QuicConfiguration(is_client=True, alpn_protocols=[alpn], verify_mode=ssl.CERT_NONE)
        configuration.signature_algorithms = [SignatureAlgorithm.ED25519]
        configuration.server_name = "fabricbios"
        if pems:
            configuration.load_cert_chain(*pems)
        self.quic = QuicConnection(configuration=configuration, session_ticket_handler=self.tickets.append)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", port))
        self.address = ("127.0.0.1", port)
        self.sent_bytes = self.received_bytes = 0
        self.quic.connect(self.address, now=time.monotonic())

    @classmethod
    def of(cls, port: int, key: Key | None, certificate: bytes | None = None) -> Peer:
        """Connect with a proper self-signed certificate and wait for the handshake."""
        if key is None:
            peer = cls(port)
        else:
            peer = cls(port, (x509_pem(key.private, certificate=certificate), private_pem(key.private)), key.id)
        peer.shake()
        return peer

    def close(self) -> None:
        if self.closed is None:
            self.quic.close()
            self._send()
        self.socket.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self) -> None:
        for data, _ in self.quic.datagrams_to_send(now=time.monotonic()):
            self.sent_bytes += len(data)
            with contextlib.suppress(ConnectionRefusedError):
                self.socket.send(data)

    def _take_events(self) -> None:
        while (event := self.quic.next_event()) is not None:
            if isinstance(event, HandshakeCompleted):
                self.shaken = True
                assert event.alpn_protocol == "fabricbios/0"
            elif isinstance(event, ConnectionTerminated):
                self.closed = event
            elif isinstance(event, StreamDataReceived):
                stream = self.streams.setdefault(event.stream_id, Stream())
                stream.data += event.data
                stream.finished |= event.end_stream
            elif isinstance(event, StreamReset):
                self.streams.setdefault(event.stream_id, Stream()).reset = event.error_code
            elif isinstance(event, StopSendingReceived):
                self.streams.setdefault(event.stream_id, Stream()).stopped = event.error_code

    def pump(self, done: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Drive the connection until `done()`; False when time ran out first."""
        until = time.monotonic() + seconds
        while True:
            self._send()
            self._take_events()
            if done():
                return True
            now = time.monotonic()
            if now >= until:
                return False
            timer = self.quic.get_timer()
            wait = min(until, timer or until) - now
            if select.select([self.socket], [], [], max(0.0, wait))[0]:
                with contextlib.suppress(ConnectionRefusedError):
                    data = self.socket.recv(65536)
                    self.received_bytes += len(data)
                    self.quic.receive_datagram(data, self.address, now=time.monotonic())
            elif timer is not None and time.monotonic() >= timer:
                self.quic.handle_timer(now=time.monotonic())

    def shake(self) -> None:
        assert self.pump(lambda: self.shaken or self.closed is not None), "no handshake"
        assert self.closed is None, self.closed

    def open(self, data: bytes = b"", *, fin: bool = True) -> int:
        """Open a bidirectional stream with this on it."""
        stream_id = self.quic._open_stream()
        self.streams.setdefault(stream_id, Stream())
        self.quic.send_stream_data(stream_id, data, fin)
        return stream_id

    def more(self, stream_id: int, data: bytes, *, fin: bool = True) -> None:
        self.quic.send_stream_data(stream_id, data, fin)

    def wait(self, stream_id: int, seconds: float = PATIENCE) -> Stream:
        """Wait until the stream's answer is whole or the stream was reset."""
        stream = self.streams[stream_id]
        if not self.pump(lambda: stream.over or self.closed is not None, seconds):
            raise Silence(f"stream {stream_id}: {bytes(stream.data)[:80]!r} and no end")
        return stream

    def exchange(self, data: bytes) -> Stream:
        return self.wait(self.open(data))

    def ask_frame(self, payload: bytes, **fields: object) -> Frame:
        """Send one REQUEST frame, return the RESPONSE frame."""
        stream = self.exchange(codec.frame(codec.REQUEST, payload, **{"sender": self.sender, **fields}))
        assert stream.reset is None, f"reset {stream.reset}"
        assert self.closed is None, self.closed
        return codec.read_frame(bytes(stream.data))

    def ask(self, op: int, params: bytes = b"", token: bytes = b"", resource: int = 0) -> Answer:
        answer = codec.read_response(self.ask_frame(codec.request(op, params, token, resource)).payload)
        assert answer.op == op
        return answer

    def done(self, op: int, params: bytes = b"", token: bytes = b"", resource: int = 0) -> bytes:
        """Ask, demand OK, return the result."""
        answer = self.ask(op, params, token, resource)
        assert answer.status == codec.OK, (hex(answer.status), answer.reason)
        return answer.result

    def refused(self, op: int, params: bytes = b"", token: bytes = b"", resource: int = 0) -> int:
        """Ask, demand a refusal, return its status."""
        answer = self.ask(op, params, token, resource)
        assert answer.status != codec.OK, "it was granted"
        return answer.status

    def token(
        self, perms: int = 0xFF, ttl: int = 60, audience: int | None = None, tail: bytes = b"", resource: int = 0
    ):
        who = self.sender if audience is None else audience
        params = codec.u32(perms) + codec.u32(ttl) + codec.u128(who) + tail
        return codec.read_token(self.done(codec.CAP_REQUEST, params, resource=resource))

    def lease(self, duration: int = 60, grace: int = 0, kind: int = codec.MEM, size: int = 1 << 16, *wishes: bytes):
        token = self.token(codec.P_ALLOC).pack()
        return codec.read_grant(self.done(codec.ALLOC, codec.alloc(duration, grace, kind, size, *wishes), token))

    def free(self, lease_id: int) -> None:
        self.done(codec.FREE, codec.u128(lease_id))

    def events(self) -> list[Frame]:
        """LEASE_EVENT frames that came whole on server-initiated unidirectional streams (ids 3, 7, 11, ...)."""
        return [codec.read_frame(bytes(s.data)) for i, s in sorted(self.streams.items()) if i % 4 == 3 and s.finished]

    def lease_events(self, lease_id: int) -> list[tuple[int, int]]:
        """Return (event, at) of one lease, in order."""
        found = []
        for f in self.events():
            assert f.msg_type == codec.LEASE_EVENT
            assert len(f.payload) == 25
            if f.payload[:16] == codec.u128(lease_id):
                found.append((f.payload[16], int.from_bytes(f.payload[17:], "big")))
        return found

    def wait_event(self, lease_id: int, event: int, seconds: float = PATIENCE) -> int:
        """Wait for one LEASE_EVENT; return its `at`."""
        assert self.pump(lambda: event in dict(self.lease_events(lease_id)), seconds), self.lease_events(lease_id)
        return dict(self.lease_events(lease_id))[event]
