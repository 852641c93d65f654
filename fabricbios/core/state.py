"""All that a node knows, in one place: what `core.node` and the families of `core.ops` work on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fabricbios.core import record
from fabricbios.core.admission import Admission, Offer
from fabricbios.core.audit import Audit
from fabricbios.core.effects import Record
from fabricbios.core.enrolments import Enrolments
from fabricbios.core.fence import SchedulerFence
from fabricbios.core.leases import Leases, Rng
from fabricbios.core.outbox import Outbox
from fabricbios.core.policy import MAX_TOKEN_TTL_SECS, Policy
from fabricbios.core.token import Tokens
from fabricbios.core.vouchers import Vouchers
from fabricbios.errors import Refused
from fabricbios.model import ALL_PERMS, Instant, Perm, ResourceType, Status
from fabricbios.ports import StreamPeer
from fabricbios.wire import Request

MAX_PENDING_ENROLMENTS = 256
MAX_TEARDOWNS = 65_536  # durations nobody has read
MAX_ASKERS = 64  # who may wait for the end of one lease
MAX_RECORDING = 1024  # answers that wait for the node's own Records
MAX_RECORDING_BY = 16  # of them, those of one identity: each is a flush of the disk


class Trust(Protocol):
    """Who may do more than PING (D3); `core.trust.TrustStore` is one."""

    def trusted(self, peer: StreamPeer, now: Instant) -> bool: ...

    def claim(self, peer: StreamPeer, now: Instant) -> bool:
        """Let the first peer have an unclaimed node, in tofu mode; its pin is durable before the answer leaves."""

    def only_controller(self) -> bytes | None:
        """Return the public key of the one controller whose certificates count, None where it is not one."""

    def is_owner(self, node_id: int) -> bool:
        """Whether this peer claimed the node: it has every permission."""

    def is_approved(self, node_id: int, public_key: bytes) -> bool:
        """Whether the admin's files approve this key to be enrolled."""

    def stands(self, node_id: int, certificate: bytes | None) -> bool:
        """Whether trust in an id that had it is still there; `certificate` is what it last showed, None if unknown."""

    def spend_approval(self, node_id: int) -> None:
        """The approval was used: it is gone from the admin's files before the answer leaves."""


class Setup(NamedTuple):
    """What the daemon knows at start. Seconds, bytes.

    `boot` is the kernel's boot id: leases of another boot are never adopted. `controller_key` makes this
    node answer ENROLL_REQUEST. `controller_pubkey` is that key's other half; zeros where there is none.
    """

    node_id: int
    token_key: bytes
    boot: str
    started: Instant
    policy: Policy = Policy()
    build_info: tuple[tuple[str, str], ...] = ()
    controller_key: Ed25519PrivateKey | None = None
    controller_pubkey: bytes = bytes(32)
    max_token_ttl: int = MAX_TOKEN_TTL_SECS
    max_leases: int = 1 << 18
    certificate_days: int = 365


class Ask(NamedTuple):
    """One readable REQUEST. `trusted` was decided when it came."""

    peer: StreamPeer
    request_id: int
    op: int
    resource_id: int
    token: bytes
    trusted: bool

    def judged(self) -> Ask:
        """Return it without its token, of up to 64 KiB: what waits for a slow device must not hold it."""
        if not self.token:
            return self
        return Ask(self.peer, self.request_id, self.op, self.resource_id, b"", self.trusted)


class Read(NamedTuple):
    """A REQUEST's payload, read: what runs it, and the params of its op."""

    request: Request
    run: Callable[[NodeState, Ask, Any, Instant], bytes | None]
    params: Any


class Recording(NamedTuple):
    """An answer that waits for the node's own Record. `epoch` is installed when that succeeds, 0 for none."""

    ask: Ask
    result: bytes
    epoch: int = 0


class Waiting(NamedTuple):
    """An answer that a teardown owes (core.overdue): by then, of the lease or resource `key`."""

    until_ns: int
    key: int
    ask: Ask


class NodeState:
    """Parts, and no behaviour of their own beyond keeping them."""

    def __init__(self, setup: Setup, offers: Iterable[Offer], trust: Trust, rng: Rng) -> None:
        self.setup, self.trust, self.rng = setup, trust, rng
        self.policy = setup.policy
        self.admission = Admission(offers)
        self.leases = Leases(self.admission)
        self.fence = SchedulerFence()
        self.records: deque[Record] = deque()  # the node's own, yet to be given out
        self.vouchers = Vouchers(lambda holder: bool(self.leases.of(holder)), self.records)
        self.tokens = Tokens(setup.node_id, setup.token_key, self.fence)
        self.outbox = Outbox(setup.node_id)
        self.read: dict[bytes, Read] = {}  # by payload: what trusted peers ask again and again
        self.audit = Audit()
        self.askers: dict[int, list[Ask]] = {}  # by lease_id: who waits for its binding or its end
        self.recording: dict[Record, Recording] = {}
        self.clearing: dict[int, tuple[Ask | None, set[int]]] = {}  # FENCE_CLEAR by resource_id: leases still probed
        self.waiting: deque[Waiting] = deque()  # who waits for a teardown, in order of their patience's end
        self.enrolments = Enrolments(MAX_PENDING_ENROLMENTS)
        self.approved: dict[int, bytes] = {}
        self.thermal: tuple[tuple[Any, ...], Instant] | None = None
        self.draining = False
        self.teardowns: deque[tuple[ResourceType, float]] = deque(maxlen=MAX_TEARDOWNS)
        self.failures: dict[str, int] = {}  # effects that failed, by name

    def perms(self, ask: Ask) -> Perm:
        """Return what may be granted: who claimed the node has every permission (D3c), whatever the policy says of
        others."""
        node_id = ask.peer.node_id
        return ALL_PERMS if self.trust.is_owner(node_id) else self.policy.of(node_id).perms

    def wait_for(self, lease_id: int, ask: Ask) -> None:
        """Let an answer wait for what becomes of a lease. Refused where too many do: each can be asked again."""
        waiting = self.askers.get(lease_id)
        if waiting is None:
            self.askers[lease_id] = [ask.judged()]
        elif len(waiting) < MAX_ASKERS:
            waiting.append(ask.judged())
        else:
            raise Refused.of(Status.RESOURCE_BUSY, "many wait for the end of that lease: ask again")

    def record(self, entry: record.Entry, then: Recording) -> None:
        """Let an answer wait until `entry` is on the disk. Refused where a slow disk keeps too many waiting."""
        by = then.ask.peer.node_id
        theirs = sum(waiting.ask.peer.node_id == by for waiting in self.recording.values())
        if len(self.recording) >= MAX_RECORDING or theirs >= MAX_RECORDING_BY:
            raise Refused.of(Status.RESOURCE_BUSY, "the journal's disk is slow: ask again")
        effect = Record(None, entry, durable=True)
        self.records.append(effect)
        self.recording[effect] = then._replace(ask=then.ask.judged())
