"""NVMe over Fabrics for block leases, where this kernel has the target and the admin did not say no."""

from __future__ import annotations

import logging

from fabricbios.daemon.blockstores import BlockStores
from fabricbios.daemon.config import Config
from fabricbios.dataplane.nvmeof import NvmeofPlane
from fabricbios.errors import ConfigError, Unsupported
from fabricbios.hw.nvmet import TRANSPORTS, Listener, Nvmet

log = logging.getLogger("fabricbios.nvmeof")
DEFAULT_SERVICE = 4420  # IANA: nvme
OFF, AUTO = "off", "auto"


def listeners(setting: str, binds: tuple[str, ...]) -> tuple[Listener, ...]:
    """Return the ways in: `auto` is tcp where the daemon is bound, else a list such as `tcp:4420,rdma:4421,loop`."""
    if setting == AUTO:
        return (Listener("tcp", binds[0], DEFAULT_SERVICE),)
    found = []
    for word in setting.split(","):
        transport, _, service = word.strip().partition(":")
        if transport not in TRANSPORTS or (service and not service.isdigit()):
            raise ConfigError(f"nvmeof {word!r}: takes auto, off, or a list of {', '.join(TRANSPORTS)} with :PORT")
        if transport == "loop":
            found.append(Listener("loop"))
        else:
            found.append(Listener(transport, binds[0], int(service or DEFAULT_SERVICE)))
    return tuple(found)


def nvmeof_plane(config: Config, stores: BlockStores) -> NvmeofPlane | None:
    """Return the plane, None where it is off or `auto` finds no target; Unsupported where it was named."""
    if config.nvmeof == OFF:
        return None
    nvmet = Nvmet(listeners(config.nvmeof, config.bind))
    try:
        nvmet.probe()
    except Unsupported as e:
        if config.nvmeof != AUTO:
            raise
        log.info("block leases without NVMe-oF: %s", e)
        return None
    return NvmeofPlane(stores.pool, nvmet)
