"""The seams: what the layers hand each other, and the protocols that drivers and fakes fulfil.

Vocabulary only: no I/O here. `core` plans in terms of these, `dataplane` fulfils them, `testing`
and the simulator fake them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from fabricbios.model import Binding, DpAuth, ResourceType


class UdpPeer(NamedTuple):
    """Where a datagram came from. `local` is the address it reached, "" if unknown."""

    host: str
    port: int
    local: str = ""


class StreamPeer(NamedTuple):
    """Who asks on one QUIC stream. `public_key` is b"" without a proven certificate.

    `certificate` is the DER-free fabricBIOS Certificate (wire bytes) out of the X.509 extension of
    D3(b), b"" if there is none. `local` is the address the asker reached, port included.
    """

    connection: int
    stream: int
    node_id: int
    public_key: bytes
    certificate: bytes
    remote: tuple[str, int]
    local: tuple[str, int]


class TrustedKeys(NamedTuple):
    """What the trust directories hold; ids to raw 32-byte keys.

    `learned` are the pins that a claim made. `approved` may ENROLL. `broken` names the files that could
    not be read: whoever they were to trust, nobody else may claim the node in their stead.
    """

    peers: Mapping[int, bytes] = {}
    learned: Mapping[int, bytes] = {}
    controllers: Mapping[int, bytes] = {}
    approved: Mapping[int, bytes] = {}
    broken: Sequence[str] = ()


class LeaseSpec(NamedTuple):
    """All that a data plane needs to bind one lease, and nothing that it could decide.

    `size` counts in the unit of the kind's capacity (D4). `expires_ns` is CLOCK_BOOTTIME.
    `wishes` are the intent values of LEASE_ALLOC; `reached` the address the asker reached, for ENDPOINT.
    """

    lease_id: int
    resource_id: int
    kind: ResourceType
    binding: Binding
    size: int
    holder: int
    generation: int
    dp_auth: DpAuth
    dp_key: bytes
    rights: int  # model.Perm READ | WRITE
    expires_ns: int
    reached: str = ""
    wishes: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        """Without the key: a spec is part of effects, and effects of messages that end in logs."""
        shown = (f"{name}={value!r}" for name, value in self._asdict().items() if name != "dp_key")
        return f"LeaseSpec({', '.join(shown)})"


class DataPlane(Protocol):
    """One kind of binding. Steps run in order, undos backwards; every undo is idempotent.

    Undo of a step that never ran, or half ran, or ran in a process that was killed, succeeds and
    leaves nothing. Failures are OSError; the caller retries, then fences.
    """

    def steps(self, lease: LeaseSpec) -> tuple[str, ...]:
        """Name the do-steps for this lease, in order. Pure."""

    def do(self, step: str, lease: LeaseSpec) -> Sequence[Any]:
        """Carry out one step; return the binding TLV values (wire) it adds to the answer."""

    def undo(self, step: str, lease: LeaseSpec) -> None:
        """Take one step back. After the step that gives access is undone, access is over in the kernel."""

    def renew(self, lease: LeaseSpec) -> None:
        """Make `lease.expires_ns` and `lease.generation` hold from now on."""

    def rekey(self, lease: LeaseSpec) -> Sequence[Any]:
        """LEASE_ATTACH: `lease.dp_key` holds, the nonce window is empty. Return all binding TLVs again."""

    def forget(self, lease: LeaseSpec) -> None:
        """Drop what was kept to answer EXPIRED after teardown (30 s, D10)."""


@runtime_checkable
class Adopter(Protocol):
    """What a DataPlane may also have when its leases outlive the daemon (pinned maps, configfs)."""

    def adopt(self, lease: LeaseSpec) -> Sequence[Any] | None:
        """Take over a lease that a predecessor bound; OSError unless every step is still in place.

        `lease.dp_key` is empty (a key is never journalled): the kernel's copy goes on. `expires_ns` and
        `generation` are the journal's and hold from now on.
        """


@runtime_checkable
class Fencer(Protocol):
    """What a DataPlane may also have when its path can answer FENCED (D10)."""

    def fence(self, lease: LeaseSpec) -> None:
        """Teardown failed for good: answer FENCED instead of EXPIRED from now on."""
