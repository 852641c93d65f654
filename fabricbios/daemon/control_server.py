"""`fabricbiosd control-server`: a node without discovery and hardware, a memory pool to develop against."""

from __future__ import annotations

import sys
from typing import Any

import click

from fabricbios.daemon import config as configuration
from fabricbios.daemon.main import setting_options

_POOL = "64M"


@click.command()
@setting_options
def control_server(**flags: Any) -> None:
    """Serve leases of a memory pool (64M by default) over QUIC; announces nothing, touches no hardware."""
    from fabricbios.daemon.node import run

    flags["mem_capacity"] = flags["mem_capacity"] or _POOL
    flags["drivers"] = flags["drivers"] or "simulated"
    flags["xdp"] = flags["xdp"] or "off"
    sys.exit(run(configuration.load(None, flags), lambda: configuration.load(None, flags), discovery=False))
