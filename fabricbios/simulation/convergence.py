"""How soon a node that has started is in the relay's answers: what discovery is worth to who asks."""

from __future__ import annotations

import random
from collections.abc import Mapping

from fabricbios.ports import UdpPeer
from fabricbios.simulation.machine import Machine
from fabricbios.simulation.network import Network
from fabricbios.simulation.schedule import Schedule
from fabricbios.transport.asker import Question

EVERY = 0.5  # seconds between two questions
OBSERVER = UdpPeer("10.60.0.1", 40_000)


class Convergence:
    """Asks the relay again and again, over the same lossy wire, and keeps the time from each start to its entry."""

    def __init__(
        self, schedule: Schedule, network: Network, rng: random.Random, machines: Mapping[int, Machine], relay: UdpPeer
    ) -> None:
        self._schedule, self._network, self._rng = schedule, network, rng
        self._machines, self._relay = machines, relay
        self.stopped = False
        self._question: Question | None = None
        self._counted: dict[int, int] = {}  # node -> its life that was seen
        self._delays: list[float] = []
        self._all_known: float | None = None
        network.attach(OBSERVER, self._datagram)

    def start(self) -> None:
        if self.stopped:
            return
        self._question = Question(sender=0, rng=self._rng.randbytes)
        for data in self._question.questions_to_send(self._schedule.clock.now):
            self._network.send(data, OBSERVER, self._relay)
        self._schedule.after(EVERY, self.start)

    def _datagram(self, data: bytes, peer: UdpPeer) -> None:
        question = self._question
        if question is None:
            return
        again = question.receive(data, peer.host, self._schedule.clock.now)
        if again is not None:
            self._network.send(again, OBSERVER, peer)
        if question.done:
            self._question = None
            for entry in question.entries:
                self._seen(self._machines[entry.node_id], entry.sequence)
            if self._all_known is None and len(self._counted) == len(self._machines):
                self._all_known = self._schedule.seconds

    def _seen(self, machine: Machine, sequence: int) -> None:
        is_news = self._counted.get(machine.node_id) != machine.life
        if is_news and machine.up and sequence > machine.started_sequence:
            self._counted[machine.node_id] = machine.life
            self._delays.append(self._schedule.seconds - machine.started_at)

    def summary(self) -> dict[str, float]:
        """Seconds until every node was known (-1: never); median and longest time from a start to its entry."""
        delays = sorted(self._delays) or [-1.0]
        all_known = -1.0 if self._all_known is None else self._all_known
        return {
            "all_known_secs": round(all_known, 3),
            "median_secs": round(delays[len(delays) // 2], 3),
            "worst_secs": round(delays[-1], 3),
        }
