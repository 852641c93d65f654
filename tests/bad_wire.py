"""A wire that is not perfect: a process between two Ethernet interfaces that does to frames what networks do.

    python bad_wire.py SEED NODE_SIDE CLIENT_SIDE

Each line on standard input is a JSON object with a `Weather` for frames "to" the node and those "fro"; it holds from
the line's answer on, which says how many frames met which fate so far. Chance is the seed's, a direction.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections import Counter
from typing import NamedTuple

FRAME = 65536
QUEUE = 200  # frames that wait for a slow wire; more are lost
ETH, IP4, UDP = 14, 20, 8
PROTOCOL_AT, SOURCE_AT, PORTS_AT = ETH + 9, ETH + 12, ETH + IP4
FRAG_NEEDED = 4  # ICMP code of destination unreachable (RFC 792)
OUTGOING = 4  # PACKET_OUTGOING, linux/if_packet.h


class Weather(NamedTuple):
    """Chances from 0 to 1, times in seconds, `rate` in bytes a second (0: no bound).

    IP packets longer than `longest` (0: no bound) vanish, with a word by ICMP if `says`. `refuses` is an ICMP code of
    destination unreachable that every UDP datagram draws instead of passing. `port` is added to the
    client's UDP ports, as a NAT does; a change forgets whom the old one stood for. `cut` lets nothing through.
    """

    loss: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    twice: float = 0.0
    corrupt: float = 0.0
    rate: float = 0.0
    longest: int = 0
    says: bool = False
    refuses: int = -1
    port: int = 0
    cut: bool = False


class Way:
    """One direction: frames come in at `source` and leave at `target` when they are due."""

    def __init__(self, name: str, source: socket.socket, target: socket.socket, seed: int) -> None:
        self.name, self.source, self.target = name, source, target
        self.weather = Weather()
        self.fates: Counter[str] = Counter()
        self.ports: dict[int, int] = {}  # outside -> inside, shared by both ways of a NAT
        self._rng = random.Random(seed)
        self._due: list[tuple[float, int, bytes]] = []
        self._number = itertools.count()
        self._free_at = 0.0

    @property
    def next_due(self) -> float:
        return self._due[0][0] if self._due else float("inf")

    def take(self, frame: bytes, now: float) -> None:
        """Decide a frame's fate."""
        weather, chance = self.weather, self._rng.random
        if weather.cut:
            self.fates["cut"] += 1
        elif not _is_udp(frame):
            self._queue(frame, now)
        elif chance() < weather.loss:
            self.fates["lost"] += 1
        elif weather.refuses >= 0:
            self._object(frame, weather.refuses)
        elif weather.longest and len(frame) - ETH > weather.longest:
            self.fates["too_long"] += 1
            if weather.says:
                self._object(frame, FRAG_NEEDED)
        else:
            for _ in range(2 if chance() < weather.twice else 1):
                self._queue(self._corrupted(frame) if chance() < weather.corrupt else frame, now)

    def send(self, now: float) -> None:
        """Let go of what is due."""
        while self._due and self._due[0][0] <= now:
            frame = self._translated(heapq.heappop(self._due)[2])
            if frame is not None:
                self.fates["passed"] += 1
                with contextlib.suppress(OSError):  # a full queue loses frames, as queues do
                    self.target.send(frame)

    def _queue(self, frame: bytes, now: float) -> None:
        weather = self.weather
        due = now + max(0.0, weather.delay + weather.jitter * (2 * self._rng.random() - 1))
        if weather.rate:
            if len(self._due) >= QUEUE:
                self.fates["overrun"] += 1
                return
            self._free_at = max(self._free_at, now) + len(frame) / weather.rate
            due += self._free_at - now
        heapq.heappush(self._due, (due, next(self._number), frame))

    def _corrupted(self, frame: bytes) -> bytes:
        """Flip one bit of what UDP carries; its checksum stays what it was."""
        self.fates["corrupted"] += 1
        at = self._rng.randrange(ETH + IP4 + UDP, len(frame))
        return frame[:at] + bytes([frame[at] ^ 1 << self._rng.randrange(8)]) + frame[at + 1 :]

    def _translated(self, frame: bytes) -> bytes | None:
        """Rewrite the client's port; None for an answer to one that stands for nobody any more."""
        if not self.weather.port or not _is_udp(frame):
            return frame
        at = PORTS_AT + (0 if self.name == "to" else 2)
        (port,) = struct.unpack_from(">H", frame, at)
        if self.name == "to":
            new = 1024 + (port + self.weather.port) % 64000
            self.ports[new] = port
        elif (new := self.ports.get(port, 0)) == 0:
            self.fates["stranger"] += 1
            return None
        return _with_word(frame, at, new)

    def _object(self, frame: bytes, code: int) -> None:
        """Answer with destination unreachable, in the name of whom the frame was for."""
        self.fates["objected"] += 1
        quoted = frame[ETH : ETH + IP4 + UDP]
        body = struct.pack(">BBHHH", 3, code, 0, 0, self.weather.longest) + quoted
        body = body[:2] + struct.pack(">H", _checksum(body)) + body[4:]
        source, target = frame[SOURCE_AT + 4 : SOURCE_AT + 8], frame[SOURCE_AT : SOURCE_AT + 4]
        head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, IP4 + len(body), 0, 0, 64, 1, 0, source, target)
        head = head[:10] + struct.pack(">H", _checksum(head)) + head[12:]
        self.source.send(frame[6:12] + frame[:6] + frame[12:14] + head + body)


def _is_udp(frame: bytes) -> bool:
    """IPv4 without options; nothing else comes here but ARP and ICMP, which pass whatever the weather."""
    return frame[12:15] == b"\x08\x00\x45" and frame[PROTOCOL_AT] == socket.IPPROTO_UDP


def _with_word(frame: bytes, at: int, new: int) -> bytes:
    """Replace two bytes and mend the UDP checksum (RFC 1624)."""
    (old,), (held,) = struct.unpack_from(">H", frame, at), struct.unpack_from(">H", frame, PORTS_AT + 6)
    total = (~held & 0xFFFF) + (~old & 0xFFFF) + new
    mended = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF if held else 0
    made = bytearray(frame)
    struct.pack_into(">H", made, at, new)
    struct.pack_into(">H", made, PORTS_AT + 6, mended)
    return bytes(made)


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _port(interface: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
    sock.bind((interface, 0))
    sock.setblocking(False)
    return sock


def _told(ways: list[Way]) -> bool:
    """Obey one line; False at the end of the input."""
    line = sys.stdin.readline()
    if not line:
        return False
    wanted = json.loads(line)
    for way in ways:
        if way.name in wanted:
            weather = Weather(**wanted[way.name])
            if weather.port != way.weather.port:
                way.ports.clear()
            way.weather = weather
    print(json.dumps({way.name: way.fates for way in ways}), flush=True)
    return True


def _forward(way: Way) -> None:
    for _ in range(64):
        try:
            frame, about = way.source.recvfrom(FRAME)
        except BlockingIOError:
            return
        if about[2] != OUTGOING:
            way.take(frame, time.monotonic())


def main() -> None:
    """Serve until standard input ends."""
    seed, *names = sys.argv[1:]
    node_side, client_side = (_port(name) for name in names)
    ways = [Way("to", client_side, node_side, int(seed)), Way("fro", node_side, client_side, ~int(seed))]
    ways[1].ports = ways[0].ports
    sources = {way.source: way for way in ways}
    print("up", flush=True)
    while True:
        due = min(way.next_due for way in ways)
        pause = None if due == float("inf") else max(0.0, due - time.monotonic())
        ready, _, _ = select.select([sys.stdin, *sources], [], [], pause)
        for source in ready:
            if source in sources:
                _forward(sources[source])
            elif not _told(ways):
                os._exit(0)
        for way in ways:
            way.send(time.monotonic())


if __name__ == "__main__":
    main()
