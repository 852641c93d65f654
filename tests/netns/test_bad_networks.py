"""Networks as they are: lossy, slow, narrow, cut, renumbered. A real node, real packets, and a wire of ours between.

What must hold on all of them: the data is right, nothing waits for ever, failures have their type, nothing leaks.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess

import pytest
from bad_wire import Weather
from bad_wire_rig import BadWire
from cli_rig import COMMAND, environment
from netns_rig import ip
from xdp_daemon_rig import XdpNode
from xdp_rig import require_bpf

from fabricbios.client import connect, leases
from fabricbios.errors import Disconnected, FabricError, LeaseExpired, TimedOut
from fabricbios.model import Binding, DpAuth, LeaseEventKind
from fabricbios.transport.solicit import solicit

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]
DATA = random.Random(1).randbytes(200_000)
HOST = f"{BadWire.V4}1"


class World:
    """A node behind a bad wire. `run` does `work(node, wire)` as its client."""

    def __init__(self, directory, mode):
        with contextlib.ExitStack() as stack:
            self.wire = BadWire()
            stack.callback(self.wire.unmake)
            self.wire.make()
            self.node = XdpNode(directory, self.wire, "--block", f"{directory}/disk:16M", mode=mode)
            stack.callback(self.node.close)
            self.node.start()
            self.close = stack.pop_all().close
        self.identity = directory / "me"

    def connect(self, timeout=10.0):
        return connect(HOST, self.node.port, identity=self.identity, timeout=timeout)

    def run(self, work, seconds=100):
        async def session():
            try:
                async with self.connect() as node:
                    await work(node, self.wire)
                    await self.wire.change()
            finally:
                await self.wire.change()

        self.node.inside.do(session(), seconds)

    def command(self, *words, stdin=b""):
        """Run `fabricbios` at the client's end of the wire; return its exit code and both outputs."""
        whom = ["-H", f"{HOST}:{self.node.port}", "--identity", str(self.identity)]
        inside = ["nsenter", f"--net=/run/netns/{self.wire.here}", *COMMAND, *whom, *words]
        done = subprocess.run(inside, env=environment(), input=stdin, capture_output=True, timeout=100)
        return done.returncode, done.stdout, done.stderr.decode()


def serve(directory, mode):
    with contextlib.closing(World(directory, mode)) as made:
        yield made


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """One node for many tests: each leaves the wire a good one, and nothing leased."""
    yield from serve(tmp_path_factory.mktemp("user"), "off")


@pytest.fixture(scope="module")
def xdp(tmp_path_factory):
    require_bpf()
    yield from serve(tmp_path_factory.mktemp("xdp"), "auto")


@pytest.fixture(params=["user", "xdp"])
def world(request):
    return request.getfixturevalue(request.param)


async def carried(lease, data=DATA):
    """Write, and read back what was written."""
    await lease.write(0, data)
    assert await lease.read(0, len(data)) == data


WEATHERS = {
    "1 % lost": Weather(loss=0.01),
    "10 % lost": Weather(loss=0.1),
    "30 % lost": Weather(loss=0.3),
    "far": Weather(delay=0.05),
    "out of order": Weather(delay=0.005, jitter=0.005),
    "twice": Weather(twice=0.3),
    "damaged": Weather(corrupt=0.02),
    "slow": Weather(rate=400_000),
    "narrow, and says so": Weather(longest=1280, says=True),
    "narrow, without a word": Weather(longest=1280),
    "PPPoE, without a word": Weather(longest=1492),
}


@pytest.mark.parametrize("weather", WEATHERS.values(), ids=WEATHERS)
def test_memory_over_datagrams(world, weather):
    async def work(node, wire):
        async with node.lease_memory(len(DATA), ttl=60) as lease:
            await wire.change(weather)
            await carried(lease)

    world.run(work)


@pytest.mark.parametrize("mode", set(DpAuth) - {DpAuth.HMAC_HEADER})
def test_every_tag_that_covers_data_keeps_it_right(world, mode):
    async def work(node, wire):
        async with node.lease_memory(len(DATA), ttl=60, dp_auth=mode) as lease:
            await wire.change(Weather(loss=0.05, twice=0.1, corrupt=0.05))
            await carried(lease)

    world.run(work)


QUIC_WEATHERS = ["10 % lost", "far", "out of order", "narrow, and says so", "narrow, without a word", "slow"]


@pytest.mark.parametrize("weather", [WEATHERS[name] for name in QUIC_WEATHERS], ids=QUIC_WEATHERS)
def test_memory_over_quic(user, weather):
    async def work(node, wire):
        async with node.lease_memory(len(DATA), ttl=60, binding=Binding.QUIC) as lease:
            await wire.change(weather)
            await carried(lease)

    user.run(work)


@pytest.mark.parametrize("binding", [Binding.UDP, Binding.QUIC])
def test_blocks(world, binding):
    data = DATA[: 200 * 512]

    async def work(node, wire):
        async with node.lease_block(len(data), ttl=60, binding=binding) as lease:
            await wire.change(Weather(loss=0.1, delay=0.002, jitter=0.002, twice=0.1))
            await carried(lease, data)

    world.run(work)


def test_a_late_copy_of_a_write_is_never_applied(world):
    """Copies of each datagram arrive in any order: what was written last stays."""

    async def work(node, wire):
        async with node.lease_memory(4096, ttl=60) as lease:
            await wire.change(Weather(loss=0.2, twice=0.5, delay=0.005, jitter=0.005))
            for turn in range(20):
                await lease.write(0, bytes([turn]) * 3000)
            await wire.change()
            assert await lease.read(0, 3000) == bytes([19]) * 3000

    world.run(work)


@pytest.mark.parametrize("binding", [Binding.UDP, Binding.QUIC])
def test_a_client_behind_a_nat_that_forgets(user, binding):
    async def work(node, wire):
        async with node.lease_memory(len(DATA), ttl=60, binding=binding) as lease:
            for port in (100, 200):
                await wire.change(Weather(port=port, rate=1_000_000))
                await carried(lease)

    user.run(work)


@pytest.mark.parametrize("binding", [Binding.UDP, Binding.QUIC])
def test_a_client_that_gets_another_address(user, binding):
    async def work(node, wire):
        async with node.lease_memory(len(DATA), ttl=60, binding=binding) as lease:
            await carried(lease)
            await asyncio.to_thread(renumber, wire, "2", "3")
            try:
                await carried(lease)
            finally:
                await asyncio.to_thread(renumber, wire, "3", "2")

    user.run(work)


def renumber(wire, old, new):
    ip("-n", wire.here, "addr", "add", f"{wire.V4}{new}/24", "dev", wire.iface)
    ip("-n", wire.here, "addr", "del", f"{wire.V4}{old}/24", "dev", wire.iface)
    ip("-n", wire.here, "addr", "replace", f"{wire.V4}{new}/24", "dev", wire.iface)  # gone with the old, its first


@pytest.fixture
def soon(monkeypatch):
    """Whoever fails does not ask for long why."""
    monkeypatch.setattr(leases, "WHY_SECONDS", 0.5)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("way", ["to", "fro"])
@pytest.mark.parametrize("binding", [Binding.UDP, Binding.QUIC])
def test_silence_ends_in_a_time_out_whichever_way_is_cut(user, binding, way):
    async def work(node, wire):
        lease = await node.lease_memory(len(DATA), ttl=60, binding=binding).open()
        await carried(lease, b"before")
        await wire.change(**{"to": Weather(), "fro": Weather(), way: Weather(cut=True)})
        for call in (lease.read(0, 6, 0.5), lease.write(0, DATA, 0.5), lease.ping(0.5)):
            with pytest.raises(Disconnected):
                await call
        await wire.change()
        await carried(lease)
        await lease.close()

    user.run(work)


def test_what_a_firewall_says_is_told_and_ends_nothing(user):
    """Destination unreachable may be forged by anybody: it explains a time-out, and never is one."""

    async def work(node, wire):
        async with node.lease_memory(len(DATA), ttl=60) as lease:
            await wire.change(Weather(refuses=13))
            with pytest.raises(TimedOut, match=r"route to host|prohibited|refused|unreachable|denied"):
                await lease.read(0, 6, 0.5)
            await wire.change()
            await carried(lease)

    user.run(work)


@pytest.mark.parametrize("binding", [Binding.UDP, Binding.QUIC])
def test_an_outage_in_the_middle_costs_time_alone(user, binding):
    async def work(node, wire):
        async with node.lease_memory(len(DATA), ttl=60, binding=binding) as lease:
            begun = asyncio.Event()

            def cut(done, total):
                """In the loop that writes, so that it cannot be through before."""
                if not begun.is_set():
                    begun.set()
                    wire.set(Weather(cut=True))

            await wire.change(Weather(rate=500_000))
            moving = asyncio.create_task(lease.write(0, DATA, 30, cut))
            await begun.wait()
            await asyncio.sleep(2)
            assert not moving.done()
            await wire.change()
            await moving
            assert await lease.read(0, len(DATA)) == DATA

    user.run(work)


@pytest.mark.usefixtures("soon")
def test_outages_leave_nothing_behind(user):
    async def work(node, wire):
        async with node.lease_memory(4096, 60) as udp, node.lease_memory(4096, 60, binding=Binding.QUIC) as quic:
            both = udp, quic
            held = []
            for _ in range(10):
                await wire.change(Weather(cut=True))
                lost = await asyncio.gather(
                    *(lease.write(0, bytes(4096), 0.1) for lease in both), return_exceptions=True
                )
                assert all(isinstance(error, Disconnected) for error in lost)
                await wire.change()
                for lease in both:
                    await carried(lease, DATA[:4096])
                held.append((len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())))
            assert held[-1] == held[0]

    user.run(work)


@pytest.mark.usefixtures("soon")
def test_a_lease_that_ended_during_an_outage_says_so(user):
    async def work(node, wire):
        lease = await node.lease_memory(4096, ttl=2).open()
        await wire.change(Weather(cut=True))
        with pytest.raises(FabricError):
            await lease.read(0, 1, 3)
        await wire.change()
        with pytest.raises(LeaseExpired):
            await until_refused(lease)

    user.run(work)


async def until_refused(lease):
    while True:
        with contextlib.suppress(Disconnected):
            await lease.read(0, 1, 0.5)
        await asyncio.sleep(0.1)


def test_a_lease_is_renewed_over_a_bad_network(user):
    async def work(node, wire):
        await wire.change(Weather(loss=0.2, delay=0.02, jitter=0.01))
        async with node.lease_memory(4096, ttl=8) as lease:
            first = lease.expires_at
            while lease.expires_at == first:
                await asyncio.sleep(0.1)
            assert lease.over is None

    user.run(work)


def test_an_event_arrives_over_a_bad_network(user):
    async def work(node, wire):
        async def first():
            return await anext(node.events())

        lease = await node.lease_memory(4096, ttl=60).open()
        heard = asyncio.create_task(first())
        await asyncio.sleep(0)
        await wire.change(Weather(loss=0.2, delay=0.02, jitter=0.01))
        await node.revoke(lease.lease_id)
        event = await heard
        assert (event.event, event.lease_id) == (LeaseEventKind.REVOKED, lease.lease_id)

    user.run(work)


def test_the_command_carries_a_file_over_a_bad_network(user):
    try:
        user.wire.set(Weather(loss=0.1, delay=0.002))
        code, out, _ = user.command("lease", "mem", "--size", "1M", "--ttl", "5m", "--json")
        assert code == 0
        lease = json.loads(out)["lease_id"]
        assert user.command("write", lease, stdin=DATA) == (0, b"", "")
        assert user.command("read", lease, "--length", str(len(DATA))) == (0, DATA, "")
        assert user.command("free", lease)[0] == 0
    finally:
        user.wire.set()


def test_the_command_says_in_one_line_that_nobody_answers(user):
    try:
        user.wire.set(Weather(cut=True))
        code, out, said = user.command("status")
    finally:
        user.wire.set()
    assert (code, out, said.count("\n")) == (4, b"", 1)
    assert HOST in said


def test_nodes_are_found_over_a_bad_network(user):
    port = user.node.ready["discovery"]["port"]

    async def work(node, wire):
        await wire.change(Weather(loss=0.3, twice=0.2, delay=0.02, jitter=0.01))
        found = await solicit([(HOST, port)], timeout=60)
        assert [entry.node_id for entry in found] == [node.node_id]

    user.run(work)


def test_a_transfer_outlives_a_daemon_that_is_killed_and_started_again(xdp):
    """The last one: it ends the node that the others use."""
    node = xdp.node
    ports = (("--control-port", "control"), ("--fbmu-port", "fbmu"))
    node.flags += [word for flag, name in ports for word in (flag, str(node.ready[name]["port"]))]  # the later wins

    async def work(client, wire):
        lease = await client.lease_memory(len(DATA), ttl=60).open()
        await wire.change(Weather(rate=250_000))
        begun = asyncio.Event()
        moving = asyncio.create_task(lease.write(0, DATA, 30, lambda done, total: begun.set()))
        await begun.wait()
        await asyncio.to_thread(node.end, signal.SIGKILL)
        await asyncio.to_thread(node.start)
        await client.doubt()
        await moving
        assert await lease.read(0, len(DATA)) == DATA

    xdp.run(work)
