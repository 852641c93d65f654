"""Who should not get through: a WRITE sent again, one changed on its way, a READ after the lease is over."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from fabricbios.cli.session import node_address
from fabricbios.client import connect
from fabricbios.client.reach import Bindings, Reach, read_bindings
from fabricbios.model import Binding, DpStatus, ResourceType
from fabricbios.wire import FbmuRead, FbmuWrite, Tagger
from fabricbios.wire.dataplane import DP_HEADER_SIZE, Read, Write
from fabricbios.wire.dp_auth import question_message

SILENCE_SECONDS = 0.3
_TAG = slice(40, DP_HEADER_SIZE)


def forged_and_replayed(host: str, identity: Path, lease_id: int) -> bool:
    """Send one good WRITE, then the same again, then a forged one; return whether either of the latter was answered."""
    return asyncio.run(_attack(*node_address(host), identity, lease_id))


class LateReader:
    """Holds a lease's key from before its end, and asks the data plane itself: no control plane in between."""

    def __init__(self, host: str, identity: Path, lease_id: int) -> None:
        self._lease_id = lease_id
        self._found, self._reach = asyncio.run(_bindings(*node_address(host), identity, lease_id))
        self._nonce = 0

    def read_status(self) -> DpStatus:
        """Read 16 bytes; return the answer's status."""
        self._nonce += 1
        question = bytearray(FbmuRead(self._nonce, self._lease_id, self._nonce, Read(0, 16, 16)).pack("udp"))
        _seal(question, self._found)
        with _wire(self._reach) as wire:
            wire.send(question)
            return DpStatus(wire.recv(2048)[DP_HEADER_SIZE])


def _seal(datagram: bytearray, found: Bindings) -> None:
    datagram[_TAG] = Tagger(found.dp_auth, found.dp_key).tag(question_message(bytes(datagram), found.dp_auth))


def _wire(reach: Reach) -> socket.socket:
    wire = socket.socket(socket.AF_INET6 if ":" in reach.host else socket.AF_INET, socket.SOCK_DGRAM)
    wire.settimeout(SILENCE_SECONDS)
    wire.connect((reach.host, reach.port))
    return wire


async def _bindings(host: str, port: int, identity: Path, lease_id: int) -> tuple[Bindings, Reach]:
    async with connect(host, port, identity=identity) as node:
        found = read_bindings((await node.attach(lease_id)).bindings, host)
    return found, found.pick(ResourceType.MEM, Binding.UDP)


async def _attack(host: str, port: int, identity: Path, lease_id: int) -> bool:
    found, reach = await _bindings(host, port, identity, lease_id)
    datagram = bytearray(FbmuWrite(1, lease_id, 1, Write(0, 5, b"hello")).pack("udp"))
    _seal(datagram, found)
    forged = bytearray(datagram)
    forged[-1] ^= 1  # somebody changed the data, and cannot make its tag
    with _wire(reach) as wire:
        wire.send(datagram)
        wire.recv(2048)
        wire.send(datagram)
        wire.send(forged)
        try:
            return bool(wire.recv(2048))
        except TimeoutError:
            return False
