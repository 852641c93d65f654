"""Notice a path that swallows large datagrams, by what is lost and what is acknowledged (RFC 8899, section 4.3).

A route's MTU is a promise that a tunnel or a filter on the way may break without a word. Timers alone cannot see it:
where the small end of a message arrives, its acknowledgement resets them, and the large part is sent again for ever.
"""

from __future__ import annotations

from collections.abc import Iterable

from aioquic.quic.congestion.base import register_congestion_control
from aioquic.quic.congestion.reno import RenoCongestionControl
from aioquic.quic.packet_builder import QuicSentPacket

DATAGRAM_SIZE = 1200  # fits every path
SUSPECT = 3  # losses in a row, each with no large datagram delivered after what was lost
INITIAL_PACKETS = 10
QUEUE_SECONDS = 0.01  # of waiting beyond twice the shortest round trip: somewhere a queue is full
ALGORITHM = "reno-watching-size"


class WatchingReno(RenoCongestionControl):
    """New Reno, which is told of every loss anyway; `swallowed` counts those that only large datagrams had."""

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self.swallowed = 0
        self._passed = -1  # the latest large packet that arrived
        self._least = float("inf")  # round trip, seconds
        self._smoothed = 0.0

    @property
    def black_hole(self) -> bool:
        """True when large datagrams are what this path loses."""
        return self.swallowed >= SUSPECT

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        if packet.sent_bytes > DATAGRAM_SIZE:
            self.swallowed = 0
            if packet.packet_number > self._passed:
                self._passed = packet.packet_number
        super().on_packet_acked(now=now, packet=packet)

    def on_packets_expired(self, *, packets: Iterable[QuicSentPacket]) -> None:
        packets = list(packets)
        self._suspect(packets)
        super().on_packets_expired(packets=packets)

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        packets = list(packets)
        self._suspect(packets)
        super().on_packets_lost(now=now, packets=packets)
        self._keep_going()

    def on_persistent_congestion(self) -> None:
        super().on_persistent_congestion()
        self._keep_going()

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        self._least = min(self._least, rtt)
        self._smoothed += (rtt - self._smoothed) / (8 if self._smoothed else 1)
        super().on_rtt_measurement(now=now, rtt=rtt)

    def _keep_going(self) -> None:
        """Losses where no queue builds up are the path's own, such as a radio's. Sending less would not make them
        fewer: they leave the window that a connection begins with (RFC 9002, 7.2)."""
        if self._smoothed <= 2 * self._least + QUEUE_SECONDS:
            self.congestion_window = max(self.congestion_window, INITIAL_PACKETS * self._max_datagram_size)

    def _suspect(self, packets: list[QuicSentPacket]) -> None:
        """A burst counts once: congestion takes many at a time, but then lets a later one through."""
        if any(p.sent_bytes > DATAGRAM_SIZE and p.packet_number > self._passed for p in packets):
            self.swallowed += 1


register_congestion_control(ALGORITHM, WatchingReno)
