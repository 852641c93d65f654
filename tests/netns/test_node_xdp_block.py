"""Block leases of a daemon on the kernel path, between two namespaces: filtered by XDP, served by a process."""

import asyncio
import os
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest
from block_node import BlockClient
from fbbu_rig import ask_block, read_block, write_block
from xdp_daemon_rig import MIB, OWNER, XdpNode, kept
from xdp_veth_rig import xdp_pair

from fabricbios.daemon.admin_client import AdminClient
from fabricbios.model import BLOCK_SIZE, Binding, DpAuth, DpOp, DpStatus, ResourceType
from fabricbios.ports import LeaseSpec
from fabricbios.wire import DpKey, Endpoint

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]
T = TypeVar("T")
ONE = b"\xb1" * BLOCK_SIZE
SILENCE = (ConnectionRefusedError, TimeoutError)  # the kernel does not send an ICMP error each time
SERVED = 'fabricbios_dp_requests_total{op="write",path="user",plane="fbbu"}'


@pytest.fixture
def pair():
    with xdp_pair("4") as made:
        yield made


@pytest.fixture
def node(tmp_path, pair):
    with closing(XdpNode(tmp_path, pair, "--block", f"{tmp_path}/disk:16M")) as process:
        process.start()
        for plane in ("fbmu", "fbbu"):  # a client that goes on after a restart asks the same ports
            process.flags[process.flags.index(f"--{plane}-port") + 1] = str(process.ready[plane]["port"])
        yield process


def within(node: XdpNode, work: Callable[[], T]) -> T:
    """Do it in the client's namespace."""

    async def soon() -> T:
        return work()

    return node.inside.do(soon())


def lease_block(node: XdpNode, ttl: int = 60) -> BlockClient:
    """Lease a megabyte that nothing renews, and return who asks for its blocks by datagrams."""
    got = node.run(
        lambda c: c.lease_alloc(ttl, ResourceType.BLOCK, MIB, dp_auth=DpAuth.BLAKE2S_FULL, binding=Binding.UDP)
    )
    told = {type(tlv): tlv for tlv in got.bindings}
    end, key = told[Endpoint], told[DpKey][0]
    lease = LeaseSpec(
        got.lease_id, 0, ResourceType.BLOCK, Binding.UDP, MIB, OWNER.node_id, 1, DpAuth.BLAKE2S_FULL, key, 3, 0
    )
    sock = within(node, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.connect((socket.inet_ntoa(end.addr[12:]), end.port))
    return BlockClient(sock, lease)


def drops(node: XdpNode, path: str) -> dict[str, float]:
    """Return what a path dropped of the block plane, by reason."""
    found = node.scrape("fabricbios_dp_path_drops_total")
    mine = {k: n for k, n in found.items() if 'plane="fbbu"' in k and f'path="{path}"' in k and n}
    return {k.partition('reason="')[2].rstrip('"}'): n for k, n in mine.items()}


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_is_forged_or_replayed_ends_in_the_kernel_and_is_counted(node):
    assert (node.ready["paths"]["fbbu"], node.ready["checks"]) == ("user", {"fbbu": "xdp_generic"})
    client = lease_block(node)
    told = node.run(lambda c: c.build_info())["path.fbbu"]
    assert told.startswith("user: behind the XDP check, fbv0 xdp_generic")
    asked = {"lease_id": client.lease.lease_id, "key": client.lease.dp_key}
    assert client.write(0, ONE) == DpStatus.OK
    for datagram in (
        write_block(0, bytes(BLOCK_SIZE), 1, **asked),
        write_block(0, bytes(BLOCK_SIZE), 2, lease_id=client.lease.lease_id, key=bytes(32)),
        read_block(0, 1, 3, lease_id=client.lease.lease_id + 1, key=client.lease.dp_key),
        b"junk",
    ):
        client.sock.send(datagram)
    assert client.read(0) == (DpStatus.OK, ONE)  # the next thing that comes back
    dropped = {"replayed": 1, "bad_tag": 1, "unknown_lease": 1, "malformed": 1}
    assert (drops(node, "xdp_generic"), drops(node, "user")) == (dropped, {})
    with AdminClient(node.directory / "run") as admin:  # what `fabricbios top` asks
        told = next(p for p in admin.ask(ask="paths")["planes"] if p["plane"] == "fbbu")
    assert (told["path"], told["checked_by"]) == ("user", "xdp_generic")
    assert {reason: n for reason, n in told["counters"]["xdp_generic"]["drops"].items() if n} == dropped
    passed = node.scrape("fabricbios_dp_passed_total")
    assert passed['fabricbios_dp_passed_total{path="xdp_generic",plane="fbbu",to="socket"}'] == 2


def replayed(node: XdpNode) -> float:
    """Both paths together; the server tells what it counted between two batches."""
    return drops(node, "xdp_generic").get("replayed", 0) + drops(node, "user").get("replayed", 0)


def test_of_many_copies_at_once_one_is_served_and_each_other_is_counted_once(node):
    """All may pass the kernel before the server takes the nonce: the server is the one who decides."""
    client, copies = lease_block(node), 200
    assert client.write(0, ONE) == DpStatus.OK
    copy = write_block(1, ONE, 2, lease_id=client.lease.lease_id, key=client.lease.dp_key)
    for _ in range(copies):
        client.sock.send(copy)
    client.nonce = 2
    seen = Counter[int]()
    client.sock.send(read_block(1, 1, 3, BLOCK_SIZE, lease_id=client.lease.lease_id, key=client.lease.dp_key))
    while DpOp.READ_RESP not in seen:
        seen[client.sock.recv(2048)[5]] += 1
    assert seen == {DpOp.WRITE_RESP: 1, DpOp.READ_RESP: 1}
    until(lambda: replayed(node) >= copies - 1)
    assert replayed(node) == copies - 1
    assert node.scrape(SERVED)[SERVED] == 2


def dead(node: XdpNode) -> None:
    """Kill the daemon; its server process ends with it, and with that the block port is nobody's."""
    servers = node.servers()
    assert len(servers) == 1
    node.end(signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{servers[0]}"))


def ask_until_told(client: BlockClient) -> tuple[int, bytes]:
    """Ask for a block until somebody answers."""
    told: list[tuple[int, bytes]] = []

    def answered() -> bool:
        try:
            told.append(client.read(0))
        except SILENCE:
            return False
        return True

    until(answered)
    return told[0]


def test_a_lease_that_is_over_is_refused_while_the_daemon_is_dead(node):
    client = lease_block(node, ttl=10)
    assert client.write(0, ONE) == DpStatus.OK
    dead(node)
    client.sock.settimeout(0.3)
    with pytest.raises(SILENCE):
        client.read(0)  # nobody serves, and the lease is not over
    assert ask_until_told(client) == (DpStatus.EXPIRED, b"")
    replay = read_block(0, 1, client.nonce, BLOCK_SIZE, lease_id=client.lease.lease_id, key=client.lease.dp_key)
    client.sock.send(replay)
    answer = client.exchange(ask_block(DpOp.PING, nonce=1000, lease_id=client.lease.lease_id, key=client.lease.dp_key))
    assert (answer[5], answer[32:40]) == (DpOp.ERROR, (1000).to_bytes(8, "big"))  # and nothing before it
    node.start()
    until(lambda: not node.run(lambda c: c.list_active()))
    assert not any((node.directory / "disk").read_bytes())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGUSR2])
def test_the_next_daemon_serves_on_under_the_same_key_and_window(node, how):
    client = lease_block(node)
    assert client.write(3, ONE) == DpStatus.OK
    old = write_block(3, bytes(BLOCK_SIZE), 1, lease_id=client.lease.lease_id, key=client.lease.dp_key)
    node.end(how)
    assert node.pins()
    node.start()
    client.sock.send(old)
    client.nonce = 5
    assert client.read(3) == (DpStatus.OK, ONE)
    assert client.write(4, ONE) == DpStatus.OK
    assert drops(node, "xdp_generic") == {"replayed": 1}
    assert "took back" not in node.said()
    assert node.end() == 0
    assert node.pins() == []
    assert not any((node.directory / "disk").read_bytes())


def test_a_daemon_without_block_forgets_what_the_last_one_had(node):
    client = lease_block(node)
    memory = node.run(kept)
    node.end(signal.SIGKILL)
    at = node.flags.index("--block")
    block, node.flags[at : at + 2] = node.flags[at : at + 2], []
    node.start()
    assert "checks" not in node.ready
    assert node.run(lambda c: c.query(memory.lease_id)).lease_status == 0
    node.end(signal.SIGKILL)
    node.flags += block
    node.start()
    client.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.read(0)  # the key is nobody's


def move(node: XdpNode, pins: Path, to: Path) -> None:
    """Rename a directory of pins, where the node has them."""
    where = f"--mount=/proc/{node._mounts.pid}/ns/mnt"
    subprocess.run(["nsenter", where, "mv", str(pins), str(to)], check=True)


def key_is_dead_and_data_is_there(node: XdpNode, client: BlockClient) -> None:
    client.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.read(0)

    async def again(c):
        disk = c.attach_block(client.lease.lease_id, 30)
        await disk.open()
        assert await disk.read(0, BLOCK_SIZE) == ONE
        await disk.close()

    node.run(again)


def test_with_xdp_switched_off_the_data_stays_and_the_key_does_not(node):
    client = lease_block(node)
    assert client.write(0, ONE) == DpStatus.OK
    node.end(signal.SIGKILL)
    node.flags[node.flags.index("auto")] = "off"
    node.start()
    assert node.run(lambda c: c.build_info())["path.fbbu"] == "user: no XDP check: XDP is off"
    key_is_dead_and_data_is_there(node, client)


def test_an_upgrade_to_another_layout_drains_the_slots_and_keeps_the_data(node):
    client = lease_block(node)
    assert client.write(0, ONE) == DpStatus.OK
    assert node.end(signal.SIGUSR2) == 0
    here = next(Path(pin).parent.parent for pin in node.pins())
    move(node, here, here.with_name("0123456789ab"))  # what another release would have left
    node.start()
    assert "another release" in node.said()
    key_is_dead_and_data_is_there(node, client)
    assert node.end() == 0
    assert node.pins() == []


def test_a_lease_that_is_freed_during_writes_ends_between_two_of_them(node):
    client, under_way = lease_block(node), threading.Event()

    async def freed_meanwhile(c):
        writing = asyncio.create_task(asyncio.to_thread(write_until_refused, client, under_way))
        await asyncio.to_thread(under_way.wait, 60)
        await c.free(client.lease.lease_id)
        return await asyncio.wait_for(writing, 60)

    assert node.run(freed_meanwhile) == DpStatus.EXPIRED
    assert client.read(0) == (DpStatus.EXPIRED, b"")
    assert not any((node.directory / "disk").read_bytes())


def write_until_refused(client: BlockClient, under_way: threading.Event) -> int:
    """Return the status of the first WRITE that is not carried out; `under_way` is set when some are."""
    acknowledged = 0
    while (status := client.write(acknowledged % 100, ONE)) == DpStatus.OK:
        acknowledged += 1
        if acknowledged == 20:
            under_way.set()
    return status


def test_memory_and_block_leases_come_and_go_side_by_side(node):
    """Forty at a time, over again, each with a pattern of its own: nobody ever sees another's slot or bytes."""

    async def one(client, number):
        pattern = bytes([number]) * 4096
        make = client.lease_memory if number % 2 else client.lease_block
        for _ in range(4):
            async with make(16384 if number % 2 else MIB // 4, ttl=60) as lease:
                assert await lease.read(0, 4096) == bytes(4096)
                await lease.write(0, pattern)
                await asyncio.sleep(0)
                assert await lease.read(0, 4096) == pattern

    async def work(client):
        await asyncio.gather(*(one(client, number) for number in range(1, 25)))
        return await client.list_active()

    assert node.run(work) == ()
    assert drops(node, "user") == {}
    assert node.end() == 0
    assert node.pins() == []


def test_a_storage_node_without_memory_has_the_check_too(tmp_path, pair):
    node = XdpNode(tmp_path, pair, "--block", f"{tmp_path}/disk:16M")
    node.flags[node.flags.index("--mem-capacity") + 1] = "0"
    try:
        node.start()
        assert node.ready["checks"] == {"fbbu": "xdp_generic"}
        client = lease_block(node)
        assert client.write(0, ONE) == DpStatus.OK
        client.sock.send(b"junk")
        assert client.read(0) == (DpStatus.OK, ONE)
        assert drops(node, "xdp_generic") == {"malformed": 1}
    finally:
        node.close()
