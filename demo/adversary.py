"""Somebody on the wire: sends a WRITE again that was seen, and one that was changed on its way."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from fabricbios.cli.session import node_address
from fabricbios.client import connect
from fabricbios.client.reach import read_bindings
from fabricbios.model import Binding, ResourceType
from fabricbios.wire import FbmuWrite, Tagger
from fabricbios.wire.dataplane import DP_HEADER_SIZE, Write
from fabricbios.wire.dp_auth import question_message

SILENCE_SECONDS = 0.3
_TAG = slice(40, DP_HEADER_SIZE)


def forged_and_replayed(host: str, identity: Path, lease_id: int) -> bool:
    """Send one good WRITE, then the same again, then a forged one; return whether either of the latter was answered."""
    return asyncio.run(_attack(*node_address(host), identity, lease_id))


async def _attack(host: str, port: int, identity: Path, lease_id: int) -> bool:
    async with connect(host, port, identity=identity) as node:
        found = read_bindings((await node.attach(lease_id)).bindings, host)
    reach = found.pick(ResourceType.MEM, Binding.UDP)
    datagram = bytearray(FbmuWrite(1, lease_id, 1, Write(0, 5, b"hello")).pack("udp"))
    datagram[_TAG] = Tagger(found.dp_auth, found.dp_key).tag(question_message(bytes(datagram), found.dp_auth))
    forged = bytearray(datagram)
    forged[-1] ^= 1  # "helln": somebody changed the data, and cannot make its tag
    family = socket.AF_INET6 if ":" in reach.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as wire:
        wire.settimeout(SILENCE_SECONDS)
        wire.connect((reach.host, reach.port))
        wire.send(datagram)
        wire.recv(2048)
        wire.send(datagram)
        wire.send(forged)
        try:
            return bool(wire.recv(2048))
        except TimeoutError:
            return False
