"""aioquic's connection, with identity, windows and acknowledgements our way. Pure protocol: no socket, no loop.

What is overridden here is private to aioquic 1.7.2, which is why that version is pinned:
* the TLS context is hardened as soon as it exists (tls.py);
* windows grow with what was consumed, not with what was claimed: stock aioquic doubles a window once a
  frame *names* an offset in its upper half, so a dozen one-byte frames make it allocate a gigabyte;
* room for streams is given back soon, not when half of it is used up;
* datagrams are no larger than the peer takes;
* an acknowledgement that waits rides on the data that leaves, instead of in a packet of its own;
* a packet with which nothing is left to write is the last that is begun (pacing.py);
* its Epochs hash by identity.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from typing import Any

from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import Limit, QuicConnection, QuicConnectionAdapter
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, pull_quic_transport_parameters
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch

from fabricbios.model import ALPN
from fabricbios.transport.blackhole import ALGORITHM, DATAGRAM_SIZE
from fabricbios.transport.certificate import PeerKey
from fabricbios.transport.identity import Identity
from fabricbios.transport.keylog import key_log
from fabricbios.transport.limits import Limits
from fabricbios.transport.pacing import Pacer
from fabricbios.transport.tls import PeerProof, ask_for_certificate, check_server

LARGEST_DATAGRAM = 8952  # a jumbo frame's; beyond it nothing is gained
BESIDE_QUIC = 48  # IPv6 and UDP headers
STREAM_CREDIT = 8  # streams that ended before the peer is told: some stacks fail rather than wait for room (qh3)
ALERT_BASE = int(QuicErrorCode.CRYPTO_ERROR)  # 0x100 + the alert's number

# aioquic looks some twenty times a packet into dictionaries by Epoch, and Enum's own hash is a Python function.
# Members are equal only to themselves, so identity does; connections, which hold those dictionaries, are all younger.
Epoch.__hash__ = object.__hash__  # type: ignore[method-assign]

# What aioquic may raise on bytes that its own checks missed. The peer's fault: it costs the peer its connection.
ENGINE_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

# What peers do wrong is counted, not logged: a flood must not fill the journal.
logging.getLogger("quic").setLevel(logging.CRITICAL)


class _Unheard(QuicConnectionAdapter):
    """For what nobody is to read: aioquic says two things of each stream, and asks four functions whether it may."""

    def debug(self, msg: object, *args: object, **kwargs: object) -> None:
        pass


_UNHEARD = _Unheard(logging.getLogger("quic"), {"id": ""})


def unix_now() -> int:
    """The wall clock in seconds; certificates are judged by it."""
    return int(time.time())


class Connection(QuicConnection):
    """A QUIC connection whose peer is proven. `proof.key` is set before any stream can be served."""

    def __init__(self, configuration: QuicConfiguration, limits: Limits, **arguments: Any) -> None:
        super().__init__(configuration=configuration, **arguments)
        self._logger = _UNHEARD
        self.proof = PeerProof()
        self.window = configuration.max_data
        self.closed_with: int | None = None
        self._taken = LARGEST_DATAGRAM  # the largest datagram that the peer says it takes
        self._pacer = self._loss._pacer = Pacer(max_datagram_size=configuration.max_datagram_size, more=self._has_more)
        self._local_max_streams_bidi = Limit(QuicFrameType.MAX_STREAMS_BIDI, "max_streams_bidi", limits.streams)

    def close(self, error_code: int = 0, frame_type: int | None = None, reason_phrase: str = "") -> None:
        """As the base; `closed_with` says at once why, where aioquic reports it only after its closing period."""
        if self.closed_with is None:
            self.closed_with = error_code
        super().close(error_code=error_code, frame_type=frame_type, reason_phrase=reason_phrase)

    @property
    def can_speak(self) -> bool:
        """False until the peer's first packet gave us keys for an answer."""
        return bool(self._cryptos)

    @property
    def events_waiting(self) -> int:
        return len(self._events)

    def has_stream(self, stream_id: int) -> bool:
        """True while the stream can still be answered or reset."""
        return stream_id in self._streams

    def takes_answer(self, stream_id: int) -> bool:
        """False where the peer has asked us to stop: aioquic resets the stream before its event is heard."""
        stream = self._streams.get(stream_id)
        return stream is not None and stream.sender._reset_error_code is None

    def open_requests(self) -> list[int]:
        """Return the client's streams that have not been received whole."""
        return [n for n, stream in self._streams.items() if n & 3 == 0 and not stream.receiver.is_finished]

    def bytes_moved(self, stream_id: int) -> int:
        """Return how many bytes of the stream were acknowledged or received."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.sender._buffer_start + stream.receiver.highest_offset

    def pushes_open(self) -> int:
        """Return how many of our unidirectional streams the peer has not acknowledged."""
        return sum(n & 3 == 3 for n in self._streams)

    def grant(self, stream_id: int, size: int) -> None:
        """Let the peer send `size` bytes in all on this stream."""
        stream = self._streams.get(stream_id)
        if stream is not None and size > stream.max_stream_data_local:
            stream.max_stream_data_local = size

    def abandon(self, stream_id: int, error_code: int) -> None:
        """Reset both directions and hold nothing of the stream, whatever the peer goes on sending."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if not stream.receiver.is_finished:
            stream.receiver.stop(error_code)
            stream.receiver.is_finished = True
            stream.receiver._buffer = bytearray()
        if not stream.sender.is_finished:
            stream.sender.reset(error_code)

    def cancel(self, stream_id: int) -> None:
        """Ask the peer to stop, as an asker does who waits no longer; the peer's reset ends the stream."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            if not stream.receiver.is_finished:
                stream.receiver.stop(0)
            stream.sender.reset(0)

    def validated_address(self) -> tuple[Any, ...]:
        """Return the address the peer proved to own: after a migration the old one until the new one answers."""
        paths = self._network_paths
        if paths[0].is_validated:
            return paths[0].addr  # type: ignore[no-any-return]
        return tuple(next((path.addr for path in paths if path.is_validated), paths[0].addr))

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        """As the base; an acknowledgement that is waiting for its timer leaves with the data.

        Where large datagrams are what the path swallows, small ones leave from then on.
        """
        congestion: Any = self._loss._cc
        if congestion.black_hole:
            self.narrow()
        if self._handshake_confirmed:
            space = self._spaces[Epoch.ONE_RTT]
            if space.ack_at is not None and space.ack_at > now and self._has_data():
                space.ack_at = now
        self._pacer.begin()
        datagrams = super().datagrams_to_send(now)
        if self._pacer.idle:
            self._pacing_at = None
        return datagrams

    def widen(self, mtu: int) -> None:
        """Send datagrams as large as route and peer take: fewer packets are most of what speed costs here."""
        self._set_datagram_size(max(DATAGRAM_SIZE, min(mtu - BESIDE_QUIC, LARGEST_DATAGRAM, self._taken)))

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        """As the base, which checks max_udp_payload_size and then forgets it (RFC 9000, 18.2)."""
        super()._parse_transport_parameters(data, from_session_ticket)
        self._taken = pull_quic_transport_parameters(Buffer(data=data)).max_udp_payload_size or LARGEST_DATAGRAM

    def narrow(self) -> None:
        """Send datagrams from now on that fit every path."""
        if self._max_datagram_size > DATAGRAM_SIZE:
            self._set_datagram_size(DATAGRAM_SIZE)

    def _set_datagram_size(self, size: int) -> None:
        """aioquic takes the size once, in its constructor; these are all the places that keep it."""
        recovery = self._loss
        self._max_datagram_size = recovery._pacer._max_datagram_size = size
        congestion: Any = recovery._cc
        congestion._max_datagram_size = size
        congestion.congestion_window = max(congestion.congestion_window, 10 * size)  # RFC 9002, 7.2

    def _has_data(self) -> bool:
        return False in [stream.sender.buffer_is_empty for stream in self._streams_queue]

    def _has_more(self) -> bool:
        """Whether a packet behind one that was written to its end should have anything in it.

        What comes before the streams' data is written whole into the first packet, or else none follows it at all: of
        CRYPTO frames, which could go on, there are none without session tickets. Room for streams may have come up with
        those that this packet let go; unless the peer runs short of it, the next packet is soon enough.
        """
        streams, pushes = self._local_max_streams_bidi, self._local_max_streams_uni
        return not self._handshake_confirmed or self._has_data() or _runs_short(streams) or _runs_short(pushes)

    def _owes_room(self) -> bool:
        """Whether the peer is due room for data or for streams, of which those that ended give some back."""
        data, streams = self._local_max_data, self._local_max_streams_bidi
        return (
            data.value != data.sent
            or data.value - data.used < self.window // 2
            or streams.value - streams.sent >= STREAM_CREDIT
            or _runs_short(streams)
            or _runs_short(self._local_max_streams_uni)
        )

    def _write_stream_frame(self, builder: Any, space: Any, stream: QuicStream, max_offset: int) -> int:
        """As the base, which learns only at the next attempt that this was the last of the data."""
        used = super()._write_stream_frame(builder, space, stream, max_offset)
        sender = stream.sender
        if not sender._pending_eof and not len(sender._pending):
            sender.buffer_is_empty = True
        return used

    def _write_connection_limits(self, builder: Any, space: Any) -> None:
        if not self._owes_room():
            return
        limit = self._local_max_data
        if limit.value - limit.used < self.window // 2:
            held = sum(s.receiver.highest_offset for s in self._streams.values() if not s.receiver.is_finished)
            limit.value = max(limit.value, limit.used - held + self.window)
        used, limit.used = limit.used, 0  # the base doubles the limit by `used`: ours is set already
        streams = self._local_max_streams_bidi
        opened = streams.used
        if streams.value - streams.sent >= STREAM_CREDIT:
            streams.used = streams.sent  # the base waits until half of all is used up
        try:
            super()._write_connection_limits(builder, space)
        finally:
            limit.used, streams.used = used, opened

    def _write_stream_limits(self, builder: Any, space: Any, stream: QuicStream) -> None:
        if stream.max_stream_data_local == stream.max_stream_data_local_sent:
            return
        seen, stream.receiver.highest_offset = stream.receiver.highest_offset, 0  # likewise
        try:
            super()._write_stream_limits(builder, space, stream)
        finally:
            stream.receiver.highest_offset = seen


def _runs_short(limit: Limit) -> bool:
    """aioquic's own rule: fewer streams are left to the peer than it would be granted."""
    return limit.sent - limit.used < limit.value - limit.sent


class ServerConnection(Connection):
    """The node's side: asks for a certificate, serves 64 requests at once, takes no other streams."""

    def __init__(
        self, identity: Identity, limits: Limits, clock: Callable[[], int], original: bytes, retry: bytes
    ) -> None:
        configuration = QuicConfiguration(
            is_client=False,
            alpn_protocols=[ALPN],
            certificate=identity.x509(clock()),
            private_key=identity.private_key,
            idle_timeout=limits.idle_seconds,
            max_data=limits.first_window,
            max_stream_data=limits.first_window,
            max_datagram_size=DATAGRAM_SIZE,
            congestion_control_algorithm=ALGORITHM,
        )
        self._clock = clock
        super().__init__(
            configuration, limits, original_destination_connection_id=original, retry_source_connection_id=retry
        )
        self._local_max_streams_uni = Limit(QuicFrameType.MAX_STREAMS_UNI, "max_streams_uni", 0)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        ask_for_certificate(self.tls, self.proof, self._clock)

    def _payload_received(self, context: Any, plain: bytes, crypto_frame_required: bool = False) -> tuple[bool, bool]:
        """As the base; a client's first packet need not be the first that comes.

        Where the one with the CRYPTO frame is lost, some clients (quiche) probe with a PING (RFC 9002, 6.2.4), and
        aioquic would end the handshake there. Who gets here has answered our Retry: it is owed a moment.
        """
        return super()._payload_received(context, plain)


class ClientConnection(Connection):
    """The asker's side: shows its key if it has one, and takes only a server that `accept` takes.

    ConfigError when SSLKEYLOGFILE names a file that cannot be written.
    """

    def __init__(
        self,
        identity: Identity | None,
        limits: Limits,
        clock: Callable[[], int],
        accept: Callable[[PeerKey], None],
    ) -> None:
        configuration = QuicConfiguration(
            is_client=True,
            alpn_protocols=[ALPN],
            certificate=identity.x509(clock()) if identity else None,
            private_key=identity.private_key if identity else None,
            idle_timeout=limits.idle_seconds,
            max_data=limits.window,
            max_stream_data=limits.window,
            max_datagram_size=DATAGRAM_SIZE,
            congestion_control_algorithm=ALGORITHM,
            verify_mode=ssl.CERT_NONE,  # there is no public CA here; check_server is the check
            secrets_log_file=key_log(),
        )
        self._clock, self._accept = clock, accept
        super().__init__(configuration, limits)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        check_server(self.tls, self.proof, self._clock, self._accept)
