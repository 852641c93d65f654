"""Where each metric's numbers come from (interfaces.md, "Metrics")."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fabricbios.daemon.storewatch import STATES
from fabricbios.dataplane.store_faults import KINDS
from fabricbios.model import LeaseState, ResourceType, hex128

if TYPE_CHECKING:
    from fabricbios.daemon.metrics import Labelled, Metrics
    from fabricbios.daemon.node import NodeService

UNITS = {
    ResourceType.CPU: "cores",
    ResourceType.MEM: "bytes",
    ResourceType.BLOCK: "bytes",
    ResourceType.NET: "bit/s",
    ResourceType.GPU: "bytes",
}


class Measures:
    """Feeds metrics from the parts of a node, once `start`ed; until then nothing is kept."""

    def __init__(self) -> None:
        self._metrics: Metrics | None = None

    def took(self, op: str, seconds: float) -> None:
        """A control request was answered."""
        if self._metrics is not None:
            self._metrics.op_seconds.labels(op).observe(seconds)

    def tore_down(self, teardowns: Iterable[tuple[ResourceType, float]]) -> None:
        """Leases of these kinds were torn down, in so many seconds each."""
        if self._metrics is not None:
            for kind, seconds in teardowns:
                self._metrics.teardown_seconds.labels(kind.name.lower()).observe(seconds)

    def start(self, node: NodeService, address: tuple[str, int]) -> tuple[str, int]:
        """Add every family and serve; return the address. AlreadyRunning if it cannot be bound."""
        from fabricbios.daemon.metrics import Metrics  # most nodes need no Prometheus client: it takes 5 MiB

        metrics = self._metrics = Metrics()
        add = metrics.add
        core = node.node
        add("fabricbios_leases", "Leases held", ("kind", "state"), lambda: _leases(core.lease_counts))
        add("fabricbios_lease_ops_total", "Control requests answered", ("op", "status"), lambda: core.op_counts)
        add("fabricbios_effect_failures_total", "Driver steps that failed", ("effect",),
            lambda: {(name,): n for name, n in core.effect_failures.items()})  # fmt: skip
        labels = ("kind", "unit", "resource")
        add("fabricbios_resource_capacity", "What is offered", labels, lambda: _resources(core, "capacity"))
        add("fabricbios_resource_available", "What of it is free", labels, lambda: _resources(core, "available"))
        add("fabricbios_fenced_resources", "Resources nobody gets until FENCE_CLEAR", ("kind",), lambda: _fenced(core))
        add("fabricbios_store_state", "1 for how a store of block leases is", ("resource", "path", "state"),
            lambda: _store_states(node))  # fmt: skip
        add("fabricbios_store_errors_total", "I/O on a store that failed in our hands", ("resource", "path", "io"),
            lambda: _store_errors(node))  # fmt: skip
        add("fabricbios_control_handshakes_total", "QUIC handshakes by how they ended", ("result",),
            lambda: {(name,): n for name, n in node.server.handshakes.items()})  # fmt: skip
        add("fabricbios_control_faults_total", "What else peers did to the QUIC endpoint", ("kind",),
            lambda: {(name,): n for name, n in node.server.faults.items()})  # fmt: skip
        add(
            "fabricbios_discovery_messages_total",
            "Discovery messages",
            ("type", "result"),
            lambda: node.announcing.counts,
        )
        add("fabricbios_dp_requests_total", "Authentic data plane questions", ("plane", "op", "path"),
            lambda: _data(node, "requests", with_path=True))  # fmt: skip
        add("fabricbios_dp_bytes_total", "Leased bytes moved", ("plane", "direction", "path"),
            lambda: _data(node, "bytes", with_path=True))  # fmt: skip
        add("fabricbios_dp_drops_total", "Datagrams without an answer", ("plane", "reason"),
            lambda: _data(node, "drops", with_path=False))  # fmt: skip
        add("fabricbios_dp_path_drops_total", "The same by path", ("plane", "reason", "path"),
            lambda: _data(node, "drops", with_path=True))  # fmt: skip
        add("fabricbios_dp_passed_total", "Authentic questions that a path left to the next", ("plane", "to", "path"),
            lambda: _data(node, "passed", with_path=True))  # fmt: skip
        return metrics.serve(address, asyncio.get_running_loop())

    def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()


def _leases(counts: Any) -> Labelled:
    return {(kind.name.lower(), LeaseState(state).name.lower()): n for (kind, state), n in counts.items()}


def _resources(core: Any, field: str) -> Labelled:
    return {
        (ResourceType(r.resource_type).name.lower(), UNITS[ResourceType(r.resource_type)], hex128(r.resource_id)):
            getattr(r, field)
        for r in core.summaries()
    }  # fmt: skip


def _fenced(core: Any) -> Labelled:
    fenced = Counter({ResourceType(r.resource_type).name.lower(): 0 for r in core.summaries()})
    fenced.update(ResourceType(r.resource_type).name.lower() for r in core.summaries() if r.flags & 1)
    return {(kind,): n for kind, n in fenced.items()}


def _store_states(node: NodeService) -> Labelled:
    found = node.stores.states().items()
    return {(hex128(rid), store.path, state): store.state == state for rid, store in found for state in STATES}


def _store_errors(node: NodeService) -> Labelled:
    return {
        (hex128(rid), store.path, io): getattr(store.faults, io)
        for rid, store in node.stores.states().items()
        for io in KINDS
    }


def _data(node: NodeService, what: str, with_path: bool) -> Labelled:
    values: Counter[tuple[str, ...]] = Counter()
    for plane, paths in node.planes.counters().items():
        streams = node.data.counts.get(plane.upper().encode(), {})
        for path, counters in [*paths.items(), *([("user", streams)] if streams else [])]:
            for name, n in counters.get(what, {}).items():
                values[(plane, name, path) if with_path else (plane, name)] += n
    return values
