"""The data planes this node has, made from its configuration: what is offered, and who binds it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

from fabricbios.core.node import Offer
from fabricbios.daemon.blockpath import BlockPath
from fabricbios.daemon.blockstores import BlockStores
from fabricbios.daemon.config import Config
from fabricbios.daemon.datastreams import StreamPlane
from fabricbios.daemon.effects import Key
from fabricbios.daemon.memorypath import MemoryPath, memory_path
from fabricbios.daemon.nvmeofpath import nvmeof_plane
from fabricbios.daemon.planesockets import bound_sockets
from fabricbios.daemon.storelook import StoreLook
from fabricbios.daemon.streamplanes import FBBU, FBMU, BlockStreams, MemoryStreams
from fabricbios.daemon.tracing import TracedPath
from fabricbios.dataplane.memory import MemoryPlane
from fabricbios.dataplane.slab import PAGE
from fabricbios.dataplane.slots import SlotCounters
from fabricbios.hw.backing import GRANULE
from fabricbios.model import BLOCK_SIZE, Binding, Resource, ResourceType, resource_id_of
from fabricbios.ports import DataPlane

DATA_BINDINGS = (Binding.UDP, Binding.QUIC)
MEMORY_NAME = "system-memory"  # one pool a node: the same id after every start (D4)


class Planes:
    """`open` binds and starts what the configuration names; `close` ends it."""

    def __init__(self, config: Config, node_id: int) -> None:
        self._config, self._node_id = config, node_id
        self._undo = contextlib.ExitStack()
        self._paths: dict[str, MemoryPath | BlockPath] = {}
        self._keep = self._busy = False
        self.by_key: dict[Key, DataPlane] = {}
        self.streams: dict[bytes, StreamPlane] = {}
        self.offers: list[Offer] = []
        self.stores: Mapping[int, StoreLook] = {}
        self.refit: Callable[[int], None] = lambda _: None  # tells the server of blocks that a store went or came
        self.max_leases = 0
        self.slow_steps: frozenset[str] = frozenset()  # whose undo must not run in the event loop

    def open(self, controls: Sequence[tuple[str, int]]) -> None:
        """Open every plane. AlreadyRunning, ConfigError, OSError; then `close` takes back what was opened.

        Stores come first, as they wait for a predecessor's server, which has the block port; that port is asked for
        before memory's path, which checks what comes to it.
        """
        config = self._config
        stores = self._open_stores() if config.block else None
        sockets = bound_sockets(config.bind, config.fbbu_port, "fbbu-port") if stores else []
        for sock in sockets:
            self._undo.callback(sock.close)
        memory = memory_path(config, self._node_id, sockets[0].getsockname()[1] if sockets else 0)
        self._undo.callback(lambda: memory.close(self._keep))
        self._paths["fbmu"] = memory
        self.max_leases, self.slow_steps = memory.slots, memory.slow_steps
        self._open_memory(memory, memory.open(controls))
        if stores:
            path = BlockPath(stores, sockets, config.block_sync, memory.check, memory.reason)
            self._undo.callback(path.close)
            self._open_block(stores, path, controls)

    def _open_stores(self) -> BlockStores:
        stores = BlockStores(self._config, self._node_id)
        self._undo.callback(lambda: None if self._busy or stores.pool.is_stuck else stores.close())
        return stores

    def _open_memory(self, path: MemoryPath, plane: MemoryPlane) -> None:
        self.streams[FBMU] = MemoryStreams(plane)
        capacity = min(self._config.mem_capacity, path.capacity) // PAGE * PAGE
        resource_id = resource_id_of(self._node_id, ResourceType.MEM, MEMORY_NAME)
        resource = Resource(resource_id, ResourceType.MEM, capacity, MEMORY_NAME, DATA_BINDINGS)
        self._serve(ResourceType.MEM, dict.fromkeys(DATA_BINDINGS, plane), [resource] if capacity else [], PAGE)

    def _open_block(self, stores: BlockStores, path: BlockPath, controls: Sequence[tuple[str, int]]) -> None:
        self._paths["fbbu"] = path
        plane = path.open(controls)
        self.stores, self.refit = path.looks(), path.refit
        self.streams[FBBU] = BlockStreams(plane)
        planes: dict[Binding, DataPlane] = dict.fromkeys(DATA_BINDINGS, plane)
        nvmeof = nvmeof_plane(self._config, stores)
        if nvmeof is not None:
            planes[Binding.NVMEOF] = nvmeof
        self._serve(ResourceType.BLOCK, planes, stores.resources(tuple(planes)), BLOCK_SIZE, GRANULE)

    def _serve(
        self,
        kind: ResourceType,
        planes: Mapping[Binding, DataPlane],
        resources: Sequence[Resource],
        granule: int,
        extent: int = 1,
    ) -> None:
        """Let effects of this kind reach their plane by binding, and offer the resources."""
        for binding, plane in planes.items():
            self.by_key[kind, binding] = plane
        bindings, auths = tuple(planes), self._config.dp_auth
        for resource in resources:
            self.offers.append(
                Offer(resource, bindings, lambda s: planes[s.binding].steps(s), auths, granule=granule, extent=extent)
            )

    def uppermost_first(self) -> list[DataPlane]:
        """Return each plane once, NVMe-oF before the blocks under it: the order in which to take things back."""
        return list(reversed(dict.fromkeys(self.by_key.values())))

    @property
    def transports(self) -> tuple[Binding, ...]:
        """The binding ranges that ANNOUNCE names (0x0807)."""
        return tuple(sorted({binding for _, binding in self.by_key}))

    def endpoints(self, host: str) -> dict[str, tuple[str, int] | None]:
        """Return the data planes' endpoints for the ready line."""
        return {name: (host, path.port) for name, path in self._paths.items()}

    def labels(self) -> dict[str, str]:
        """Return plane -> which path serves it."""
        return {name: path.label for name, path in self._paths.items()}

    def checks(self) -> dict[str, str]:
        """Return plane -> which path drops what is forged before it comes to the one that serves."""
        return {name: path.checked_by for name, path in self._paths.items() if isinstance(path, BlockPath)}

    def reasons(self) -> dict[str, str]:
        """Return plane -> which path serves it and why, for people."""
        return {name: f"{path.label}: {path.reason}" for name, path in self._paths.items()}

    def counters(self) -> dict[str, Mapping[str, Mapping[str, Mapping[str, int]]]]:
        """Return plane -> path -> counters.read_counters()'s object."""
        return {name: path.counters() for name, path in self._paths.items()}

    def lease_counters(self, lease_id: int) -> SlotCounters | None:
        """Return what one lease was asked for over the data planes, None for one that has no slot in them."""
        found = (path.lease_counters(lease_id) for path in self._paths.values())
        return next((counters for counters in found if counters is not None), None)

    def traced(self) -> list[TracedPath]:
        """Return what `fabricbios trace` can look at."""
        return [TracedPath(name, path.label, path.traced) for name, path in self._paths.items()]

    def close(self, keep: bool, busy: bool = False) -> None:
        """End it all, backwards; with `keep` what outlives a daemon stays for the next one.

        `busy`: a thread is still wiping. Its descriptors stay open until the process ends: a number that is closed
        may be another file's a moment later, and would be wiped.
        """
        self._keep, self._busy = keep, busy
        self._undo.close()
