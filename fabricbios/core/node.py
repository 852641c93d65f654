"""One node's control plane, sans-IO: bytes and time in, bytes and effects out (design.md, "core's one shape").

The daemon reads whole requests from QUIC streams and carries out effects; the simulator does the same with
fakes. Nothing here waits, reads a clock or draws lots.

    node = Node(setup, offers, trust, rng)
    node.restore(journal_entries, now)
    loop: node.receive(data, peer, now); run effects until next_effect() is None and report each;
          send datagrams_to_send(now); sleep until next_deadline(); handle_timer(now)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fabricbios.core import overdue, record, requests
from fabricbios.core.admission import Offer
from fabricbios.core.audit import AuditEvent
from fabricbios.core.consequences import follow
from fabricbios.core.effects import Effect, Record
from fabricbios.core.happened import Cause
from fabricbios.core.lease import Lease
from fabricbios.core.leases import Rng
from fabricbios.core.outbox import Close, Destination, Push, Reset
from fabricbios.core.policy import Policy
from fabricbios.core.state import NodeState, Setup, Trust
from fabricbios.core.withdrawal import end_distrusted
from fabricbios.errors import LocalMisuse
from fabricbios.model import Instant, LeaseState, ResourceType, Status
from fabricbios.ports import StreamPeer
from fabricbios.wire import ResourceSummary

__all__ = ["Close", "Destination", "Node", "Offer", "Push", "Reset", "Setup", "Trust"]

_OVER = (LeaseState.FREE, LeaseState.FENCED)


class Node:
    """See the module. `now` never goes back; the Unix half of it may jump."""

    def __init__(self, setup: Setup, offers: Iterable[Offer], trust: Trust, rng: Rng) -> None:
        self._state = NodeState(setup, offers, trust, rng)
        self._stopped = False

    def restore(self, entries: Iterable[Mapping[str, Any]], now: Instant) -> None:
        """Take over what a predecessor's journal says: Adopt what was whole, tear down the rest (D8).

        Call once, before anything else. LocalMisuse for entries of another version.
        """
        past = record.fold(entries)
        state = self._state
        state.fence.epoch = past.epoch
        state.tokens.revoked.update({t: until for t, until in past.revoked.items() if until > now.unix})
        state.vouchers.restore(past.vouchers)
        for kept in past.leases.values():
            state.leases.add(Lease.restore(kept, state.setup.boot, now))

    def journal(self) -> Iterator[record.Entry]:
        """Yield the entries that say all of now: what the daemon compacts its journal to."""
        state = self._state
        if state.fence.epoch:
            yield record.epoch_entry(state.fence.epoch)
        for token_id, until in state.tokens.revoked.items():
            yield record.revoked_entry(token_id, until)
        holders: set[int] = set()
        for lease in state.leases:
            kept = lease.kept()
            if kept is not None:
                holders.add(kept.spec.holder)
                yield from record.entries_of(kept)
        yield from state.vouchers.entries(holders)

    # -- the wire

    def connection_opened(self, peer: StreamPeer) -> None:
        """A handshake is complete: LEASE_EVENTs of the peer's leases go there from now on."""
        self._state.outbox.opened(peer, self._state.trust.stands(peer.node_id, peer.certificate))

    def connection_closed(self, connection: int) -> None:
        self._state.outbox.closed(connection)

    def request_limit(self, peer: StreamPeer, now: Instant) -> int:
        """Return how many bytes of a request's payload are worth reading (D1); more is a reset with error 1."""
        return requests.request_limit(self._state, peer, now)

    def receive(self, data: bytes, peer: StreamPeer, now: Instant) -> None:
        """Serve one stream: `data` is all that came before its FIN. What is due by `now` happens first."""
        self.handle_timer(now)
        requests.serve(self._state, data, peer, now)

    def datagrams_to_send(self, now: Instant) -> list[tuple[bytes, Destination]]:
        """Return answers (StreamPeer: send, then FIN), pushes (Push) and resets (Reset, no bytes)."""
        return self._state.outbox.take()

    # -- time

    def next_deadline(self) -> int | None:
        """Return the CLOCK_BOOTTIME ns at which to call handle_timer; it may come early, never late."""
        deadlines = (self._state.leases.next_deadline(), overdue.next_deadline(self._state))
        return min((at for at in deadlines if at is not None), default=None)

    def handle_timer(self, now: Instant) -> None:
        self._state.leases.follow_wall_clock(now)
        overdue.answer(self._state, now)
        deadline = self._state.leases.next_deadline()
        if deadline is None or deadline > now.boot_ns:
            return
        for lease, happened in self._state.leases.handle_timer(now):
            if happened:
                follow(self._state, lease, happened, now)

    # -- effects

    def next_effect(self) -> Effect | None:
        """Return the next effect to carry out, or None. Several may be out at once, never two of a lease."""
        if self._state.records:
            return self._state.records.popleft()
        return None if self._stopped else self._state.leases.next_effect()

    def effect_succeeded(self, effect: Effect, result: Sequence[Any], now: Instant) -> None:
        """Report a success; `result` are the TLV values of Do, Adopt and Rekey, () for the rest."""
        if effect.lease is None:
            self._recorded(effect, None, now)
        elif not self._stopped:
            lease = self._lease_of(effect)
            follow(self._state, lease, lease.effect_succeeded(effect, result, now), now)

    def effect_failed(self, effect: Effect, error: OSError, now: Instant) -> None:
        """Report a failure, with what the kernel said."""
        name = type(effect).__name__
        self._state.failures[name] = self._state.failures.get(name, 0) + 1
        self._note_failure(effect, error, now)
        if effect.lease is None:
            self._recorded(effect, error, now)
        elif not self._stopped:
            lease = self._lease_of(effect)
            follow(self._state, lease, lease.effect_failed(effect, error, now), now)

    def _note_failure(self, effect: Effect, error: OSError, now: Instant) -> None:
        lease_id, holder = (effect.lease.lease_id, effect.lease.holder) if effect.lease else (0, 0)
        step = getattr(effect, "step", "")
        detail = f"{type(effect).__name__} {step}: {error}"
        self._state.audit.note(now, "effect.failed", lease_id, holder, detail)

    def _lease_of(self, effect: Effect) -> Lease:
        lease = self._state.leases.get(effect.lease.lease_id) if effect.lease else None
        if lease is None:
            raise LocalMisuse(f"{effect} is of no lease here")
        return lease

    def _recorded(self, effect: Effect, error: OSError | None, now: Instant) -> None:
        if self._state.vouchers.recorded(effect, failed=error is not None):
            return
        if not isinstance(effect, Record) or effect not in self._state.recording:
            raise LocalMisuse(f"{effect} was not asked for")
        waiting = self._state.recording.pop(effect)
        if error is not None:
            self._state.outbox.refuse(waiting.ask, Status.INTERNAL_ERROR, "the journal cannot be written", now)
            return
        self._state.fence.epoch = max(self._state.fence.epoch, waiting.epoch)
        self._state.outbox.answer(waiting.ask, waiting.result, now)

    # -- hardware that goes

    def lose(self, resource_id: int, now: Instant) -> None:
        """What an offer is made of is gone: end its leases, and grant none of it until `regain`. Call it once."""
        self._state.admission.lose(resource_id)
        for lease in list(self._state.leases):
            if lease.spec.resource_id == resource_id and lease.state not in _OVER and not lease.ending:
                follow(self._state, lease, lease.tear_down(Cause.REVOKED, now), now)

    def regain(self, resource_id: int) -> None:
        """It is back. Leases whose teardown failed meanwhile stay FENCED, and the resource with them."""
        self._state.admission.regain(resource_id)

    def degrade(self, resource_id: int, errs: bool) -> None:
        """What an offer is made of errs, or does no more: it is flagged DEGRADED, and leases go on."""
        self._state.admission.degrade(resource_id, errs)

    # -- the end

    def drain(self, now: Instant) -> None:
        """Tear every lease down and grant no more; go on driving until `drained` or patience ends."""
        self._state.draining = True
        for lease in list(self._state.leases):
            if lease.state not in _OVER and not lease.ending:
                follow(self._state, lease, lease.tear_down(Cause.REVOKED, now), now)

    @property
    def drained(self) -> bool:
        """Nothing is held any more but what is FENCED."""
        return all(not n for (_, state), n in self._state.leases.counts.items() if state not in _OVER)

    def fence_rest(self, now: Instant) -> list[Record]:
        """Give up on what would not go in time: write these entries, then exit. Later reports are ignored."""
        records = [r for lease in list(self._state.leases) if (r := lease.fence_at_once(now)) is not None]
        for lease in self._state.leases:
            self._state.leases.settle(lease)
        self._stopped = True
        return records

    # -- trust

    def trust_changed(self, now: Instant) -> None:
        """The trust store says something else than before: end what rests on trust that was withdrawn."""
        end_distrusted(self._state, now)

    # -- what the daemon shows and sets

    def summaries(self) -> tuple[ResourceSummary, ...]:
        """Return the resource list of ANNOUNCE and GET_INVENTORY."""
        return self._state.admission.summaries()

    def set_thermal(self, tlvs: Sequence[Any], at: Instant) -> None:
        """Keep a reading (thermal TLV values without AGE_MS) for GET_THERMAL; its age counts from `at`."""
        self._state.thermal = (tuple(tlvs), at)

    def set_policy(self, policy: Policy) -> None:
        """From the next request on; what was granted stays."""
        self._state.policy = policy

    def set_build_info(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Answer GET_BUILD_INFO with these from now on."""
        self._state.setup = self._state.setup._replace(build_info=tuple(pairs))

    def pending_enrolments(self) -> dict[int, bytes]:
        """Return id -> public key of who asked to be enrolled and waits."""
        return self._state.enrolments.keys()

    def approve_enrolment(self, node_id: int) -> bool:
        """The admin says yes: the next ENROLL_REQUEST gets its Certificate. False if nobody of that id waits."""
        key = self._state.enrolments.get(node_id)
        if key is not None:
            self._state.approved[node_id] = key
        return key is not None

    def lease(self, lease_id: int) -> Lease | None:
        """Return a lease to look at (spec, state, ends_unix), never to change."""
        return self._state.leases.get(lease_id)

    def lease_by_low(self, low: int) -> Lease | None:
        """Find a lease by its low 64 bits (D13)."""
        return self._state.leases.low(low)

    def leases(self) -> Iterator[Lease]:
        """Yield every lease that is known, the ended ones of the last 30 s included; to look at."""
        return iter(self._state.leases)

    @property
    def lease_counts(self) -> Mapping[tuple[ResourceType, LeaseState], int]:
        """How many leases, by kind and state, kept as they change. FREE ones are not counted."""
        return self._state.leases.counts

    @property
    def op_counts(self) -> Mapping[tuple[str, str], int]:
        """Answers by op and status name; ("unreadable", "RESET") counts resets."""
        return self._state.outbox.ops

    @property
    def effect_failures(self) -> Mapping[str, int]:
        return self._state.failures

    def take_teardowns(self) -> list[tuple[ResourceType, float]]:
        """Return kind and seconds of each teardown since the last call."""
        done = list(self._state.teardowns)
        self._state.teardowns.clear()
        return done

    def events(self) -> list[AuditEvent]:
        """Return what happened since the last call, for the log."""
        return self._state.audit.take()
