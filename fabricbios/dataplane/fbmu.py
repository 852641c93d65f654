"""FBMU, the memory plane over datagrams (D10): HELLO, READ, WRITE and PING on leased bytes.

Payloads and status codes are FBMT's (wire encoding, "TCP memory protocol").
"""

from __future__ import annotations

import struct

from fabricbios.dataplane import transfers
from fabricbios.dataplane.leases import Lease
from fabricbios.dataplane.slots import Plane
from fabricbios.model import DpStatus

_HELLO_ACK = struct.Struct(">B3xQII")
LIMITS_BESIDE = transfers.LIMITS_BESIDE


class Fbmu(transfers.Transfers):
    """`lease.data` are the leased bytes."""

    magic = b"FBMU"
    plane = Plane.FBMU
    unit = 1

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
