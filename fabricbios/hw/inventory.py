"""All of a machine's hardware in one value, and that value as a JSON document.

The document's schema is docs/schema/inventory.json ("fabricbios.inventory/1"): its keys are the fields of the
NamedTuples that the modules beside this one return, so they may be added to and never renamed.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple, Protocol, runtime_checkable

from fabricbios.hw import block, cpu, gpu, machine, memory, net, nvme, pci, thermal
from fabricbios.hw.sysfs import Sysfs

SCHEMA = "fabricbios.inventory/1"


class Inventory(NamedTuple):
    """What was found. `unreadable` maps files that exist but would not be read to the reason."""

    machine: machine.Machine
    cpu: cpu.Cpus
    memory: memory.Memory
    block: tuple[block.BlockDevice, ...]
    nvme: tuple[nvme.NvmeController, ...]
    net: tuple[net.Nic, ...]
    gpu: tuple[gpu.Gpu, ...]
    pci: tuple[pci.PciDevice, ...]
    thermal: thermal.Thermals
    unreadable: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return a document of plain lists, objects, numbers and strings."""
        return {"schema": SCHEMA, **_plain(self)}


def detect(root: str | os.PathLike[str] = "/", xdp: net.XdpProbe | None = None) -> Inventory:
    """Look at all hardware below `root`, read-only. Never raises for what a machine lacks or hides."""
    fs = Sysfs(root)
    functions = pci.detect(fs)
    return Inventory(
        machine=machine.detect(fs),
        cpu=cpu.detect(fs),
        memory=memory.detect(fs),
        block=block.detect(fs),
        nvme=nvme.detect(fs),
        net=net.detect(fs, xdp),
        gpu=gpu.detect(fs, functions),
        pci=functions,
        thermal=thermal.detect(fs),
        unreadable=fs.unreadable,
    )


@runtime_checkable
class _Record(Protocol):
    """What every NamedTuple is and no other tuple."""

    def _asdict(self) -> dict[str, Any]: ...


def _plain(value: Any) -> Any:
    """Turn NamedTuples into objects, tuples into lists."""
    if isinstance(value, _Record):
        return {key: _plain(item) for key, item in value._asdict().items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
