"""What the admin socket answers: leases with their counters, paths and why, enrolments that wait, traces.

{"ask": "leases"} {"ask": "paths"} {"ask": "pending"} {"do": "approve", "node_id": "0x..."}, and those of tracing.py;
docs/schema/admin-*.json describe the answers.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from fabricbios.core.lease import Lease
from fabricbios.core.node import Node
from fabricbios.daemon.admin import Answer, BadQuestion
from fabricbios.daemon.tracing import REQUESTS
from fabricbios.dataplane.slots import SlotCounters
from fabricbios.model import LeaseState, hex128, id_of_key

MAX_LEASES = 4096  # in one answer: those that moved the most bytes
BREATH = 512  # leases looked at before the event loop has its turn


class Paths(Protocol):
    """What is asked of `daemon.planes.Planes`."""

    def lease_counters(self, lease_id: int) -> SlotCounters | None: ...
    def labels(self) -> Mapping[str, str]: ...
    def reasons(self) -> Mapping[str, str]: ...
    def checks(self) -> Mapping[str, str]: ...
    def counters(self) -> Mapping[str, Mapping[str, Mapping[str, Mapping[str, int]]]]: ...


StreamCounts = Mapping[bytes, Mapping[str, Mapping[str, int]]]


class AdminAnswers:
    """Call it with a request. `streams` are the QUIC data plane's counters, by plane."""

    def __init__(self, node_id: int, node: Node, paths: Paths, streams: StreamCounts, tracing: Answer) -> None:
        self._node_id, self._node, self._paths, self._streams = node_id, node, paths, streams
        self._tracing = tracing
        self._asks: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
            "leases": self._leases, "paths": self._planes, "pending": self._pending,
        }  # fmt: skip

    async def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        """Raises BadQuestion for anything else."""
        asked = request.get("ask")
        if asked == "trace" or request.get("do") in ("trace", "untrace"):
            return await self._tracing(request)
        if set(request) == {"ask"} and isinstance(asked, str) and asked in self._asks:
            return await self._asks[asked]()
        if set(request) == {"do", "node_id"} and request["do"] == "approve":
            return self._approve(request["node_id"])
        asks = ", ".join(f'{{"ask": "{name}"}}' for name in self._asks)
        raise BadQuestion(f'there are {asks}, {{"do": "approve", "node_id": "0x..."}}, {REQUESTS}')

    def _document(self, noun: str, **fields: Any) -> dict[str, Any]:
        return {"schema": f"fabricbios.{noun}/1", "node_id": hex128(self._node_id), **fields}

    async def _leases(self) -> dict[str, Any]:
        held = [lease for lease in self._node.leases() if lease.state is not LeaseState.FREE]
        at = time.monotonic_ns()
        counted = []
        for number, lease in enumerate(held):
            if number % BREATH == BREATH - 1:
                await asyncio.sleep(0)
            counted.append((lease, self._paths.lease_counters(lease.spec.lease_id)))
        busiest = heapq.nlargest(MAX_LEASES, counted, key=lambda pair: pair[1].bytes if pair[1] else -1)
        listed = [_lease(lease, counters) for lease, counters in busiest]
        return self._document("admin-leases", at_ns=at, left_out=len(held) - len(listed), leases=listed)

    async def _planes(self) -> dict[str, Any]:
        labels, reasons, counters = self._paths.labels(), self._paths.reasons(), self._paths.counters()
        checks = self._paths.checks()
        planes = [
            {
                "plane": plane,
                "path": path,
                "checked_by": checks.get(plane, ""),
                "why": reasons[plane].removeprefix(f"{path}: "),
                "counters": {**_plain(counters[plane]), **_stream(self._streams.get(plane.upper().encode()))},
            }
            for plane, path in labels.items()
        ]
        return self._document("admin-paths", at_ns=time.monotonic_ns(), planes=planes)

    async def _pending(self) -> dict[str, Any]:
        waiting = [
            {"node_id": hex128(node_id), "public_key": key.hex()}
            for node_id, key in sorted(self._node.pending_enrolments().items())
        ]
        return self._document("admin-pending", pending=waiting)

    def _approve(self, text: Any) -> dict[str, Any]:
        try:
            node_id = int(text, 16)
        except (TypeError, ValueError):
            raise BadQuestion(f"{text!r} is not an id: 0x and 32 digits") from None
        key = self._node.pending_enrolments().get(node_id)
        if key is None or id_of_key(key) != node_id or not self._node.approve_enrolment(node_id):
            raise BadQuestion(f"no enrolment of {hex128(node_id)} waits")
        return self._document("admin-approved", approved=hex128(node_id), public_key=key.hex())


def _lease(lease: Lease, counters: SlotCounters | None) -> dict[str, Any]:
    spec = lease.spec
    return {
        "lease_id": hex128(spec.lease_id),
        "resource_id": hex128(spec.resource_id),
        "holder": hex128(spec.holder),
        "kind": spec.kind.name.lower(),
        "binding": spec.binding.name.lower(),
        "state": lease.state.name.lower(),
        "size": spec.size,
        "generation": spec.generation,
        "expires_at": lease.ends_unix,
        "counters": None if counters is None else counters._asdict(),
    }


def _plain(paths: Mapping[str, Mapping[str, Mapping[str, int]]]) -> dict[str, Any]:
    return {path: {what: dict(values) for what, values in counters.items()} for path, counters in paths.items()}


def _stream(counts: Mapping[str, Mapping[str, int]] | None) -> dict[str, Any]:
    """QUIC streams are a way of their own to the same bytes."""
    return {} if counts is None else {"quic": {what: dict(values) for what, values in counts.items()}}
