"""The data planes this node has, made from its configuration: what is offered, and who binds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fabricbios.core.node import Offer
from fabricbios.daemon.config import Config
from fabricbios.daemon.memorypath import SLOTS, MemoryPath
from fabricbios.dataplane.memory import MemoryPlane
from fabricbios.dataplane.slab import PAGE
from fabricbios.model import Binding, Resource, ResourceType, resource_id_of
from fabricbios.ports import DataPlane

MEMORY_NAME = "system-memory"  # one pool a node: the same id after every start (D4)


class Planes:
    """`open` binds and starts what the configuration names; `close` ends it."""

    def __init__(self, config: Config, node_id: int) -> None:
        self._config, self._node_id = config, node_id
        self.memory_path: MemoryPath | None = None
        self.by_key: dict[tuple[ResourceType, Binding], DataPlane] = {}
        self.offers: list[Offer] = []
        self.max_leases = SLOTS

    def open(self, controls: Sequence[tuple[str, int]]) -> None:
        """Open every plane. AlreadyRunning, OSError."""
        config = self._config
        self.memory_path = MemoryPath(config.mem_capacity, config.bind, config.fbmu_port)
        self.store: MemoryPlane = self.memory_path.open(controls)
        if config.mem_capacity:
            self._offer_memory(self.store)

    def _offer_memory(self, plane: MemoryPlane) -> None:
        bindings = (Binding.UDP, Binding.QUIC)
        capacity = self._config.mem_capacity // PAGE * PAGE
        resource_id = resource_id_of(self._node_id, ResourceType.MEM, MEMORY_NAME)
        resource = Resource(resource_id, ResourceType.MEM, capacity, MEMORY_NAME, bindings)
        self.offers.append(Offer(resource, bindings, plane.steps, self._config.dp_auth, granule=PAGE))
        for binding in bindings:
            self.by_key[ResourceType.MEM, binding] = plane

    @property
    def transports(self) -> tuple[Binding, ...]:
        """The binding ranges that ANNOUNCE names (0x0807)."""
        return tuple(sorted({binding for _, binding in self.by_key}))

    def endpoints(self, host: str) -> dict[str, tuple[str, int] | None]:
        """Return the data planes' endpoints for the ready line."""
        return {"fbmu": (host, self.memory_path.port) if self.memory_path else None}

    def labels(self) -> dict[str, str]:
        """Return plane -> which path serves it."""
        return {"fbmu": self.memory_path.label} if self.memory_path else {}

    def reasons(self) -> dict[str, str]:
        """Return plane -> which path serves it and why, for people."""
        path = self.memory_path
        return {"fbmu": f"{path.label}: {path.reason}"} if path else {}

    def counters(self) -> Mapping[str, Mapping[str, Mapping[str, Mapping[str, int]]]]:
        """Return plane -> path -> counters.read_counters()'s object."""
        return {"fbmu": self.memory_path.counters()} if self.memory_path else {}

    def close(self, keep: bool) -> None:
        """End it all; with `keep` what outlives a daemon stays for the next one."""
        if self.memory_path:
            self.memory_path.close()
