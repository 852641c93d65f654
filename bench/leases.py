"""100,000 live leases on one node's control plane: renewals a second, how late an expiry is served, memory a lease.

The whole path of a request without sockets: frame decoded, token's MAC verified, the lease changed, effects
handed out and reported as done, the answer packed. The peer is the least that any node must do for one
renewal: decode its frame and request, verify the token, pack an answer. Expiry: a tenth of the leases end,
10,000 a second; lateness is how long after its end the undo of a lease is handed out, in real time here, and what
the ends take of a processor says how many a second could be kept up with. The cycle collector is set as a node sets it.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from report import Row, run

from fabricbios.core.effects import Do, Undo
from fabricbios.core.node import Node, Offer
from fabricbios.model import NS, Binding, Instant, Op, Resource, ResourceType
from fabricbios.testing import NODE_ID, TOKEN_KEY, FakeTrust, SimClock, peer_of, setup
from fabricbios.transport.cycles import spare_the_living
from fabricbios.wire import (
    Frame,
    Generation,
    LeaseAllocParams,
    LeaseAllocResult,
    LeaseRenewParams,
    LeaseRenewResult,
    MsgType,
    Request,
    Response,
    Token,
)
from fabricbios.wire.token import mac_holds, mint

HOLDER = 1
PEER = peer_of(HOLDER)
TOKEN = mint(Token(token_id=1, issuer=NODE_ID, perms=255, expires_at=1 << 62), TOKEN_KEY).pack()
STEPS = ("slot",)
LIVE, ENDS = 100_000, 10_000  # ends a second
PATIENCE = 60.0  # seconds


def node_with(clock: SimClock) -> Node:
    """Return a node with room for any number of leases of one byte."""
    resource = Resource(5, ResourceType.MEM, 1 << 40, "bench")
    offer = Offer(resource, (Binding.UDP,), lambda lease: STEPS)
    return Node(setup(clock, max_leases=1 << 30), [offer], FakeTrust({HOLDER}), random.Random(1))


def frame(op: Op, params: bytes) -> bytes:
    request = Request(int(op), token=TOKEN, params=params).pack()
    return Frame(int(MsgType.REQUEST), 0, 1, 1, HOLDER, request).pack()


def drive(node: Node, now: Instant) -> None:
    while (effect := node.next_effect()) is not None:
        node.effect_succeeded(effect, (), now)


def fill(node: Node, clock: SimClock, count: int) -> list[int]:
    """Alloc leases 10 us apart, every tenth for 100 s, the others for hours; return the ids of the others."""
    ids = []
    for i in range(count):
        secs = 10_000 if i % 10 else 100
        node.receive(frame(Op.LEASE_ALLOC, LeaseAllocParams(secs, 0, 2, 1).pack()), PEER, clock.now)
        drive(node, clock.now)
        for data, _ in node.datagrams_to_send(clock.now):
            if i % 10:
                ids.append(LeaseAllocResult.unpack(Response.unpack(Frame.unpack(data).payload).result).lease_id)
        clock.advance(10e-6)
    node.events()
    return ids


def bytes_a_lease(count: int) -> float:
    """Return what Python allocates for one live lease, journal and data plane not counted."""
    clock = SimClock()
    node = node_with(clock)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    ids = fill(node, clock, count)
    del ids[:]
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return taken / count


def renewals(node: Node, clock: SimClock, ids: list[int], count: int) -> float:
    """Return renewals a CPU second, of leases all over the table."""
    frames = [frame(Op.LEASE_RENEW, LeaseRenewParams(i, 200).pack()) for i in random.Random(2).choices(ids, k=count)]
    start = time.process_time()
    for data in frames:
        node.receive(data, PEER, clock.now)
        drive(node, clock.now)
        node.datagrams_to_send(clock.now)
    return count / (time.process_time() - start)


def least(count: int) -> float:
    """Return how often a CPU second the unavoidable part of a renewal can be done."""
    data = frame(Op.LEASE_RENEW, LeaseRenewParams(7, 200).pack())
    start = time.process_time()
    for nonce in range(count):
        request = Request.unpack(Frame.unpack(data, "quic").payload, "quic")
        LeaseRenewParams.unpack(request.params)
        mac_holds(Token.unpack(request.token), TOKEN_KEY)
        answer = Response(0, request.op, LeaseRenewResult(1, (Generation(1),)).pack()).pack()
        Frame(int(MsgType.RESPONSE), 0, 1, nonce, NODE_ID, answer).pack()
    return count / (time.process_time() - start)


def lateness_ms(node: Node, clock: SimClock, count: int) -> list[float]:
    """Let real time run over `count` ends and return how late each teardown began, in ms."""
    first = node.next_deadline()
    assert first is not None
    ahead = first - time.monotonic_ns() - int(0.2 * NS)  # the first end is 0.2 s away
    late: list[float] = []
    stop = time.monotonic() + PATIENCE
    while len(late) < count and time.monotonic() < stop:
        now = Instant(time.monotonic_ns() + ahead, clock.now.unix_ms)
        node.handle_timer(now)
        while (effect := node.next_effect()) is not None:
            if isinstance(effect, Undo):
                late.append((time.monotonic_ns() + ahead - effect.lease.expires_ns) / 1e6)
            assert not isinstance(effect, Do)
            node.effect_succeeded(effect, (), now)
        deadline = node.next_deadline()
        if deadline is not None and deadline > now.boot_ns:
            time.sleep(min((deadline - now.boot_ns) / NS, 0.05))
    return late


def rows(quick: bool) -> Sequence[Row]:
    rounds = 3 if quick else 7
    size = bytes_a_lease(LIVE // 10)
    clock = SimClock()
    node = node_with(clock)
    spare_the_living()
    ids = fill(node, clock, LIVE)
    pairs = [(renewals(node, clock, ids, 5000), least(5000)) for _ in range(rounds)]
    ours, peer = (statistics.median(values) for values in zip(*pairs, strict=True))
    spread = (max(p[0] for p in pairs) - min(p[0] for p in pairs)) / ours
    spent = time.process_time()
    late = sorted(lateness_ms(node, clock, LIVE // 10))
    spent = time.process_time() - spent
    assert len(late) == LIVE // 10, f"{len(late)} leases of {LIVE // 10} ended"
    p50, p99 = late[len(late) // 2], late[len(late) * 99 // 100]
    live = f"{LIVE:,} live"
    return [
        Row(f"renewals, {live}", ours, "1/CPU s", "decode, verify, encode alone", peer, ours / peer, rounds, spread),
        Row(f"expiries, {live}", len(late) / spent, "1/CPU s", "", None, None, 1, 0.0),
        Row(f"expiry lateness p50, {live}, {ENDS:,} ends/s", p50, "ms", "", None, None, 1, 0.0),
        Row(f"expiry lateness p99, {live}, {ENDS:,} ends/s", p99, "ms", "", None, None, 1, 0.0),
        Row("memory a live lease", size, "bytes", "", None, None, 1, 0.0),
    ]


if __name__ == "__main__":
    sys.exit(run("leases", rows))
