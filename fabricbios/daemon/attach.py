"""Connect this machine's kernel to an NVMe-oF lease of another node: what `fabricbios attach` does below its options.

The kernel keeps all state: which leases are attached is read back from sysfs, so any process can detach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fabricbios.errors import Unsupported, WireError
from fabricbios.hw import nvme_host
from fabricbios.hw.nvme_host import Target
from fabricbios.hw.nvmet import NQN_PREFIX, TRANSPORTS
from fabricbios.wire import (
    NvmeofDhchapKey,
    NvmeofHostNqn,
    NvmeofNqn,
    NvmeofTraddr,
    NvmeofTrsvcid,
    NvmeofTrtype,
)

LOSS_TIMEOUT = nvme_host.LOSS_TIMEOUT
_LEASE = NQN_PREFIX + "lease:"


def attach(bindings: Sequence[Any], host: str, loss_timeout: int = LOSS_TIMEOUT) -> str:
    """Connect by the first of the node's ways that works and return the block device (/dev/nvme3n1).

    `host` is the node as we reached it, for a way without an address. Raises Unsupported where the lease is no
    NVMe-oF lease or this machine has no such host, the last way's OSError where none works. `loss_timeout` is how many
    seconds the kernel tries to reach a node that has gone silent before it fails all I/O and removes the device.
    """
    nvme_host.probe()
    ways = targets(bindings, host)
    for way in ways[:-1]:
        try:
            return _connected(way, loss_timeout)
        except OSError:
            continue  # the next way may do; the last one's failure is told
    return _connected(ways[-1], loss_timeout)


def attached() -> dict[int, str]:
    """Return the block device of each attached lease, "" while it has none."""
    found = {}
    for nqn in nvme_host.subsystems():
        if nqn.startswith(_LEASE):
            found[int(nqn.removeprefix(_LEASE), 16)] = next(iter(nvme_host.disks(nqn)), "")
    return found


def detach(lease_id: int) -> bool:
    """Disconnect; return whether the lease was attached. OSError(EBUSY) if its disk does not go."""
    return nvme_host.disconnect(f"{_LEASE}{lease_id:032x}")


def targets(bindings: Sequence[Any], host: str) -> list[Target]:
    """Return the ways to a lease that its binding TLVs tell, in order. WireError where they do not fit together."""
    nqn, host_nqn, key = (_first(bindings, kind) for kind in (NvmeofNqn, NvmeofHostNqn, NvmeofDhchapKey))
    if not nqn or not host_nqn:
        raise Unsupported("attaching this lease", "its binding is not nvmeof", "lease block --binding nvmeof")
    addresses = [tlv.nvmeof_traddr for tlv in bindings if isinstance(tlv, NvmeofTraddr)]
    services = [tlv.nvmeof_trsvcid for tlv in bindings if isinstance(tlv, NvmeofTrsvcid)]
    kinds = [tlv.nvmeof_trtype for tlv in bindings if isinstance(tlv, NvmeofTrtype)]
    if not len(addresses) == len(services) == len(kinds) > 0:
        raise WireError("the node's ways to its NVMe-oF target do not fit together")
    return [
        Target(nqn, TRANSPORTS[kind], address or host, service, host_nqn, key)
        for address, service, kind in zip(addresses, services, kinds, strict=True)
    ]


def _connected(way: Target, loss_timeout: int) -> str:
    """Connect and wait for the disk; a controller without one is not left behind."""
    nvme_host.connect(way, loss_timeout)
    try:
        return nvme_host.wait_for_disk(way.nqn)
    except OSError:
        nvme_host.disconnect(way.nqn)
        raise


def _first(bindings: Sequence[Any], kind: type[Any]) -> str:
    return next((str(tlv[0]) for tlv in bindings if isinstance(tlv, kind)), "")
