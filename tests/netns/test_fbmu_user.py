"""The user-space memory server with real packets: two namespaces, a veth pair, both IP versions."""

import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from fbmu_rig import KEY, LEASE_ID, question, read, write
from pyroute2 import netns

from fabricbios.dataplane.endpoints import Listener
from fabricbios.dataplane.memory import EXTENT, SLOT_STEP, MemoryPlane
from fabricbios.dataplane.server import ServerProcess
from fabricbios.dataplane.shared import LeaseBoard
from fabricbios.dataplane.slab import Memory
from fabricbios.dataplane.slots import Plane
from fabricbios.hw.syscalls import boottime_ns
from fabricbios.model import NS, Binding, DpAuth, DpOp, DpStatus, ResourceType, Transport
from fabricbios.ports import LeaseSpec
from fabricbios.wire import Limits

pytestmark = pytest.mark.netns
NODE = {socket.AF_INET: ["198.51.100.1", "198.51.100.7"], socket.AF_INET6: ["2001:db8:5::1", "2001:db8:5::7"]}
CLIENT = {socket.AF_INET: "198.51.100.2", socket.AF_INET6: "2001:db8:5::2"}
FAMILIES = list(NODE)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Link:
    """Two namespaces of this test's own, and what is between them."""

    def __init__(self) -> None:
        self.node, self.client = (f"fb-{side}-{os.getpid()}" for side in ("n", "c"))

    def make(self) -> None:
        for name in (self.node, self.client):
            ip("netns", "add", name)
        pair = ("type", "veth", "peer", "name", "fbm0", "netns", self.client)
        ip("-n", self.node, "link", "add", "fbm0", *pair)
        for family in FAMILIES:
            width = "/24" if family == socket.AF_INET else "/64"
            for name, hosts in ((self.node, NODE[family]), (self.client, [CLIENT[family]])):
                for host in hosts:
                    ip("-n", name, "addr", "add", host + width, "dev", "fbm0", *(["nodad"] if ":" in host else []))
        for name in (self.node, self.client):
            ip("-n", name, "link", "set", "fbm0", "up")

    def socket(self, name: str, family: socket.AddressFamily) -> socket.socket:
        netns.pushns(name)
        try:
            return socket.socket(family, socket.SOCK_DGRAM)
        finally:
            netns.popns()

    def close(self) -> None:
        for name in (self.node, self.client):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


class Node:
    """A memory server bound to the wildcards of the node's namespace."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.sockets = {family: self._bound(family) for family in FAMILIES}
        self.memory, self.board = Memory.create(1 << 20), LeaseBoard.create(8)
        self.server = ServerProcess(Plane.FBMU, list(self.sockets.values()), self.board, self.memory.slabs)
        listeners = [
            Listener(Transport.FBMU_UDP, s.getsockname()[0], s.getsockname()[1]) for s in self.sockets.values()
        ]
        self.plane = MemoryPlane(self.board.table(), self.memory, listeners, self.server.quiesce)
        self.lease = LeaseSpec(
            LEASE_ID,
            1,
            ResourceType.MEM,
            Binding.UDP,
            65536,
            3,
            1,
            DpAuth.BLAKE2S_FULL,
            KEY,
            3,
            boottime_ns() + 60 * NS,
        )
        self.server.start()

    def _bound(self, family: socket.AddressFamily) -> socket.socket:
        sock = self.link.socket(self.link.node, family)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("", 0))
        return sock

    def bind(self, reached: str) -> Limits:
        """Bind the lease for who reached that address; return the LIMITS told."""
        lease = self.lease._replace(reached=reached)
        self.plane.do(EXTENT, lease)
        limits = self.plane.do(SLOT_STEP, lease)[1]
        assert isinstance(limits, Limits)
        return limits

    def asker(self, family: socket.AddressFamily, host: str) -> socket.socket:
        """Return a client's socket that hears nothing but answers from `host`."""
        sock = self.link.socket(self.link.client, family)
        sock.settimeout(60)
        sock.connect((host, self.sockets[family].getsockname()[1]))
        return sock

    def close(self) -> None:
        self.server.close()
        for sock in self.sockets.values():
            sock.close()
        self.memory.close()


@pytest.fixture
def node() -> Iterator[Node]:
    with closing(Link()) as link:
        link.make()
        with closing(Node(link)) as made:
            yield made


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_comes_from_the_address_that_was_asked(node: Node, family: socket.AddressFamily) -> None:
    node.bind(NODE[family][1])
    for nonce, host in enumerate(NODE[family], 1):
        with node.asker(family, host) as asker:
            asker.send(question(DpOp.PING, b"", nonce))
            assert asker.recv(2048)[5] == DpOp.PONG


@pytest.mark.parametrize("family", FAMILIES)
def test_limits_are_what_fits_into_one_packet(node: Node, family: socket.AddressFamily) -> None:
    limits = node.bind(NODE[family][0])
    data = os.urandom(limits.max_write)
    with node.asker(family, NODE[family][0]) as asker:
        asker.setsockopt(*DONT_FRAGMENT[family])  # EMSGSIZE instead of fragments
        asker.send(write(0, data, 1))
        assert asker.recv(2048)[56] == DpStatus.OK
        asker.send(read(0, limits.max_read, 2, padding=limits.max_read - 4))
        answer = asker.recv(2048)
    assert answer[64 : 64 + len(data)] == data
    assert len(answer) == {socket.AF_INET: 1472, socket.AF_INET6: 1452}[family]


DONT_FRAGMENT = {
    socket.AF_INET: (socket.IPPROTO_IP, 10, 2),  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
    socket.AF_INET6: (socket.IPPROTO_IPV6, 23, 2),  # IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO
}


def test_forged_replayed_and_expired_on_a_real_link(node: Node) -> None:
    node.bind(NODE[socket.AF_INET][0])
    with node.asker(socket.AF_INET, NODE[socket.AF_INET][0]) as asker:
        asked = write(0, b"once", 1)
        asker.send(asked)
        assert asker.recv(2048)[56] == DpStatus.OK
        asker.send(asked)
        asker.send(write(0, b"evil", 2, key=b"f" * 32))
        node.plane.renew(node.lease._replace(expires_ns=boottime_ns()))
        asker.send(read(0, 4, 3))
        answer = asker.recv(2048)
    assert struct.unpack_from(">Q", answer, 32)[0] == 3
    assert answer[56:] == struct.pack(">B3xI", DpStatus.EXPIRED, 0)
    deadline = time.monotonic() + 60
    while sum((drops := node.server.counters()["drops"]).values()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (drops["replayed"], drops["bad_tag"]) == (1, 1)
    assert bytes(node.memory.view[:4]) == b"once"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_window_of_the_longest_reads_comes_back_whole(node: Node, family: socket.AddressFamily) -> None:
    """Answers that leave as one message arrive as the datagrams that they are."""
    limits = node.bind(NODE[family][1])
    data = os.urandom(65536)
    node.plane.write(LEASE_ID, 0, data)
    with node.asker(family, NODE[family][1]) as asker:
        asker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        for nonce in range(1, 47):
            offset = (nonce - 1) * limits.max_read
            asker.send(read(offset, min(limits.max_read, 65536 - offset), nonce))
        answers = {
            struct.unpack_from(">Q", answer, 32)[0]: answer[64:] for answer in (asker.recv(2048) for _ in range(46))
        }
    assert b"".join(answers[nonce] for nonce in sorted(answers)) == data[: 46 * limits.max_read]
