"""The whole of it: machines, clients and a relay from one seed; what is done to them, and what came of it."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from fabricbios.core.relay import Relay
from fabricbios.core.trust import TrustMode, TrustStore
from fabricbios.model import id_of_key
from fabricbios.ports import TrustedKeys, UdpPeer
from fabricbios.simulation import invariants
from fabricbios.simulation.convergence import Convergence
from fabricbios.simulation.machine import Machine, new_key
from fabricbios.simulation.network import Network
from fabricbios.simulation.schedule import Schedule
from fabricbios.simulation.tenant import Tenant

RELAY = UdpPeer("10.59.0.1", 5700)
CRASHES_PER_HOUR = 60.0  # of each machine, on average
REBOOTS = 0.25  # of the crashes
DOWN = 4.0  # seconds that a crashed machine is away, on average
SICK_EVERY, SICK_FOR = 60.0, 8.0  # seconds; longer than a step is retried, so that some leases end up FENCED
REST = 40.0  # seconds to come to rest in: longer than any teardown is tried, or any ended lease remembered


class Settings(NamedTuple):
    """`loss` is of datagrams, `failures` of the effects that machines carry out; both 0 to 1."""

    nodes: int = 5
    seconds: float = 60.0
    seed: int = 0
    loss: float = 0.05
    failures: float = 0.05


class Summary(NamedTuple):
    """What came of it. Seconds and counts; `digest` is the SHA-256 of the event log."""

    settings: Settings
    leases: dict[str, int]
    crashes: dict[str, int]
    wire: dict[str, int]
    discovery: dict[str, float]
    effects_failed: int
    events: int
    digest: str


class Fleet:
    """Make it, `run` it once. Broken is raised as soon as an invariant does not hold."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.schedule = Schedule()
        self._rng = random.Random(settings.seed)
        self._resting = False
        self.network = Network(self.schedule, self._split(), settings.loss)
        self.machines: dict[int, Machine] = {}
        self.tenants = [
            Tenant(n, self.schedule, self.network, self._split(), self.machines, RELAY)
            for n in range(settings.nodes + 1)
        ]
        keys = {tenant.node_id: tenant.public_key for tenant in self.tenants}
        for number in range(settings.nodes):
            machine = Machine(number, self.schedule, self.network, self._split(), settings.failures, keys, (RELAY,))
            self.machines[machine.node_id] = machine
        self._make_relay()
        self.convergence = Convergence(self.schedule, self.network, self._split(), self.machines, RELAY)

    def _split(self) -> random.Random:
        """Everybody draws from a source of their own: one more draw here changes nothing there."""
        return random.Random(self._rng.getrandbits(128))

    def _make_relay(self) -> None:
        rng = self._split()
        _, public = new_key(rng)
        self.relay = Relay(id_of_key(public), TrustStore(TrustMode.TOFU, TrustedKeys()), rng=rng.randbytes)
        self.network.attach(RELAY, self._relayed)
        self._sweep()

    def _relayed(self, data: bytes, peer: UdpPeer) -> None:
        self.relay.receive(data, peer, self.schedule.clock.now)
        for answer, to in self.relay.datagrams_to_send(self.schedule.clock.now):
            self.network.send(answer, RELAY, to)

    def _sweep(self) -> None:
        self.relay.handle_timer(self.schedule.clock.now)
        self.schedule.after(1, self._sweep)

    # -- the play

    def run(self) -> Summary:
        """Let it live for its time, then come to rest; return what happened."""
        for machine in self.machines.values():
            machine.start()
            self._plan_crash(machine)
            self._plan_sickness(machine)
        for tenant in self.tenants:
            tenant.start()
        self.convergence.start()
        self.schedule.run(self.settings.seconds)
        self._come_to_rest()
        return self._summary()

    def _plan_crash(self, machine: Machine) -> None:
        if self.settings.failures:
            self.schedule.after(self._rng.expovariate(CRASHES_PER_HOUR / 3600), lambda: self._crash(machine))

    def _crash(self, machine: Machine) -> None:
        if self._resting:
            return
        machine.crash(reboot=self._rng.random() < REBOOTS)
        self.schedule.after(self._rng.expovariate(1 / DOWN), lambda: self._restart(machine))

    def _restart(self, machine: Machine) -> None:
        if not machine.up:
            machine.start()
        self._plan_crash(machine)

    def _plan_sickness(self, machine: Machine) -> None:
        if self.settings.failures:
            self.schedule.after(self._rng.expovariate(1 / SICK_EVERY), lambda: self._sicken(machine))

    def _sicken(self, machine: Machine) -> None:
        """For a while nothing can be taken down on it."""
        machine.sick = not self._resting
        self.schedule.after(SICK_FOR, lambda: self._heal(machine))

    def _heal(self, machine: Machine) -> None:
        machine.sick = False
        self._plan_sickness(machine)

    def _come_to_rest(self) -> None:
        """Luck turns: nothing fails any more; then nothing may be left anywhere."""
        self._resting = self.convergence.stopped = True
        for tenant in self.tenants:
            tenant.stopped = True
        for machine in self.machines.values():
            machine.sick, machine.failures = False, 0.0
            if machine.up:
                machine.crash(reboot=False)  # once more: what is in flight is lost
            machine.start()
        self.schedule.run(1)
        for machine in self.machines.values():
            machine.clear_fences()
        self.schedule.run(1)
        for machine in self.machines.values():
            machine.drain()
        self.schedule.run(REST)
        for machine in self.machines.values():
            invariants.check_rest(machine)

    def _summary(self) -> Summary:
        n = self.schedule.happened
        return Summary(
            self.settings,
            leases={
                "granted": n["lease.bound"], "renewed": n["lease.renewed"], "expired": n["lease.expired"],
                "freed": n["client.freed"], "revoked": n["client.revoked"], "fenced": n["lease.fenced"],
                "adopted": n["lease.adopted"], "failed": n["lease.bind_failed"],
            },
            crashes={"kills": n["node.killed"], "reboots": n["node.rebooted"], "clients": n["client.crashed"]},
            wire={
                "datagrams": n["datagram.sent"], "lost": n["datagram.lost"],
                "connections_lost": n["connection.lost"], "requests_lost": n["request.lost"],
            },
            discovery=self.convergence.summary(),
            effects_failed=n["effect.failed"],
            events=sum(n.values()),
            digest=self.schedule.digest,
        )  # fmt: skip


def to_json(summary: Summary) -> dict[str, Any]:
    """Return it as docs/schema/simulation.json has it."""
    return {"schema": "fabricbios.simulation/1", **summary._asdict(), "settings": summary.settings._asdict()}
