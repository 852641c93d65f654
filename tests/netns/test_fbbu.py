"""FBBU between two network namespaces: real packets, an interface's MTU, a wildcard bind, both address families."""

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from block_node import BlockClient, BlockNode
from fbbu_rig import read_block, write_block
from fbmu_rig import KEY

from fabricbios.dataplane.fbbu import Sync
from fabricbios.hw.backing import GRANULE
from fabricbios.model import BLOCK_SIZE, DpStatus

pytestmark = pytest.mark.netns
CLONE_NEWNET = 0x4000_0000
SIZE = 4 * GRANULE
ADDRESSES = {socket.AF_INET: ("192.0.2.1", "192.0.2.2"), socket.AF_INET6: ("2001:db8::1", "2001:db8::2")}


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def inside(namespace: str, make: Callable[[], socket.socket]) -> socket.socket:
    """Make a socket in a namespace: it stays there, whoever uses it."""
    made: list[socket.socket] = []

    def enter() -> None:
        with open(f"/run/netns/{namespace}", "rb") as handle:
            if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        made.append(make())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return made[0]


class Wire:
    """Namespaces NAME-n (the node) and NAME-c (the client), joined by veth."""

    def __init__(self, name: str) -> None:
        self.node, self.client = f"{name}-n", f"{name}-c"

    def make(self) -> None:
        for namespace in (self.node, self.client):
            run("ip", "netns", "add", namespace)
        run("ip", "-n", self.node, "link", "add", "v0", "type", "veth", "peer", "name", "v0", "netns", self.client)
        for side, namespace in enumerate((self.node, self.client)):
            for family, addresses in ADDRESSES.items():
                width, quick = ("24", []) if family == socket.AF_INET else ("64", ["nodad"])
                run("ip", "-n", namespace, "address", "add", f"{addresses[side]}/{width}", "dev", "v0", *quick)
            run("ip", "-n", namespace, "link", "set", "v0", "up")

    def udp(self, namespace: str, family: socket.AddressFamily, bind: str = "", connect: int = 0) -> socket.socket:
        def make() -> socket.socket:
            sock = socket.socket(family, socket.SOCK_DGRAM)
            if bind:
                sock.bind((bind, 0))
            if connect:
                sock.connect((ADDRESSES[family][0], connect))
            return sock

        return inside(namespace, make)

    def close(self) -> None:
        for namespace in (self.node, self.client):
            subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with closing(Wire(f"fbbu-{os.getpid()}")) as made:
        made.make()
        yield made


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> socket.AddressFamily:
    return socket.AddressFamily(request.param)


@pytest.fixture
def served(wire: Wire, family: socket.AddressFamily, tmp_path: Path) -> Iterator[tuple[BlockNode, BlockClient]]:
    """A node behind a wildcard bind, with one lease, and its holder on the other side of the wire."""
    sock = wire.udp(wire.node, family, bind="0.0.0.0" if family == socket.AF_INET else "::")
    node = BlockNode(tmp_path, str(tmp_path / "disk"), SIZE, [sock], Sync.DATASYNC)
    lease = node.lease(7, SIZE, reached=ADDRESSES[family][0])
    node.bind(lease)
    client = BlockClient(wire.udp(wire.client, family, connect=sock.getsockname()[1]), lease)
    yield node, client
    node.close()
    client.sock.close()
    sock.close()


def test_a_file_over_the_wire_and_back(served: tuple[BlockNode, BlockClient], tmp_path: Path) -> None:
    node, client = served
    assert client.hello() == (DpStatus.OK, BLOCK_SIZE, SIZE // BLOCK_SIZE, 2)
    data = os.urandom(256 * BLOCK_SIZE)
    for index in range(0, 256, 2):
        assert client.write(index, data[index * BLOCK_SIZE : (index + 2) * BLOCK_SIZE]) == DpStatus.OK
    back = b"".join(client.read(index, 2)[1] for index in range(0, 256, 2))
    assert back == data
    assert (tmp_path / "disk").read_bytes()[: len(data)] == data
    node.end(client.lease)
    assert client.read(0) == (DpStatus.EXPIRED, b"")
    assert not any((tmp_path / "disk").read_bytes())


def test_forged_and_replayed_datagrams_draw_no_answer_and_are_counted(served: tuple[BlockNode, BlockClient]) -> None:
    node, client = served
    asked = write_block(0, b"x" * BLOCK_SIZE, 1, lease_id=7, key=KEY)
    client.nonce = 1
    assert client.exchange(asked)[56] == DpStatus.OK
    for datagram in (
        asked,
        read_block(0, nonce=9, lease_id=7, key=bytes(32)),
        read_block(0, nonce=9, lease_id=8),
        b"junk",
    ):
        client.sock.send(datagram)
    assert client.read(0) == (DpStatus.OK, b"x" * BLOCK_SIZE)  # the next thing that comes back
    node.server.stop()
    drops = {reason: n for reason, n in node.server.counters()["drops"].items() if n}
    assert drops == {"replayed": 1, "bad_tag": 1, "unknown_lease": 1, "malformed": 1}


def test_no_question_draws_a_longer_answer_but_an_unpadded_authentic_one(served: tuple[BlockNode, BlockClient]) -> None:
    _, client = served
    padded = read_block(0, 2, 1, padding=1020, lease_id=7, key=KEY)
    assert len(client.exchange(padded)) == len(padded)
    bare = read_block(0, 2, 2, lease_id=7, key=KEY)
    assert len(client.exchange(bare)) > len(bare)
    client.sock.settimeout(0.3)
    client.sock.send(read_block(0, 2, 3, lease_id=7, key=bytes(32)))
    with pytest.raises(TimeoutError):
        client.sock.recv(2048)
