"""FBMU, the memory plane over datagrams (D10): HELLO, READ, WRITE and PING on leased bytes.

Payloads and status codes are FBMT's (wire encoding, "TCP memory protocol").
"""

from __future__ import annotations

import struct

from fabricbios.dataplane import transfers
from fabricbios.dataplane.leases import Lease
from fabricbios.dataplane.operations import Asked, Operation, one_by_one
from fabricbios.dataplane.slots import Plane
from fabricbios.model import DpStatus

_HELLO_ACK = struct.Struct(">B3xQII")
LIMITS_BESIDE = transfers.LIMITS_BESIDE


class Fbmu(transfers.Transfers):
    """`lease.data` are the leased bytes."""

    magic = b"FBMU"
    plane = Plane.FBMU
    unit = 1

    def operations(self) -> tuple[Operation, ...]:
        """READs and WRITEs of a run are carried out together."""
        hello, read, write, ping = super().operations()
        return hello, read._replace(serve_all=self._reads), write._replace(serve_all=self._writes), ping

    def greet(self, lease: Lease) -> bytes:
        limits = min(lease.max_read, self.longest_read), min(lease.max_write, self.longest_write)
        return _HELLO_ACK.pack(DpStatus.OK, lease.length, *limits)

    def refuse_hello(self, status: DpStatus) -> bytes:
        return _HELLO_ACK.pack(status, 0, 0, 0)

    def fetch(self, lease: Lease, offset: int, length: int) -> memoryview:
        data: memoryview = lease.data[offset : offset + length]
        return data

    def store(self, lease: Lease, run: int, offset: int, data: bytes) -> bool:
        lease.data[offset : offset + len(data)] = data
        return True

    def settle(self) -> frozenset[int]:
        """Memory is as durable as it will ever be."""
        return frozenset()

    def _reads(self, lease: Lease, run: int, asked: Asked) -> list[bytes]:
        """READs of one length, the farthest of which is allowed, are one check, one count and many copies."""
        length, count = asked.seconds[0], len(asked.seconds)
        if asked.seconds.count(length) != count or self._refusal_to_read(lease, max(asked.firsts), length) is not None:
            return one_by_one(self._read, lease, run, asked)
        self._count_reads(lease, count, length)
        head, held = transfers.read_head(length), lease.data
        return [head + held[first : first + length] for first in asked.firsts]

    def _writes(self, lease: Lease, run: int, asked: Asked) -> list[bytes]:
        """Likewise, if each is later than the one before. Those of a run carry equally much."""
        length, count, carried = asked.seconds[0], len(asked.seconds), len(asked.data[0])
        if (
            asked.seconds.count(length) != count
            or self._refusal_to_write(lease, max(asked.firsts), length, carried) is not None
            or not lease.take_writes(asked.nonces)
        ):
            return one_by_one(self._write, lease, run, asked)
        self._count_writes(lease, count, length)
        held = lease.data
        for first, data in zip(asked.firsts, asked.data, strict=True):
            held[first : first + length] = data
        return [transfers.WRITTEN] * count
