"""The one line that says a daemon serves (interfaces.md), and systemd's notify socket."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from fabricbios import __version__
from fabricbios.model import hex128


def line(
    node_id: int,
    claimed: bool,
    endpoints: dict[str, tuple[str, int] | None],
    paths: dict[str, str],
    checks: dict[str, str] | None = None,
) -> str:
    """Return `ready {json}`; endpoints that are None are left off, and planes that nothing checks beforehand."""
    fields: dict[str, Any] = {
        "schema": "fabricbios.ready/1",
        "node_id": hex128(node_id),
        "pid": os.getpid(),
        "version": __version__,
        "claimed": claimed,
    }
    fields |= {name: {"addr": e[0], "port": e[1]} for name, e in endpoints.items() if e is not None}
    if paths:
        fields["paths"] = paths
    if found := {plane: path for plane, path in (checks or {}).items() if path}:
        fields["checks"] = found
    return "ready " + json.dumps(fields, separators=(",", ":"))


def notify(state: str) -> None:
    """Tell systemd, if it asked (sd_notify(3)); an unreachable socket is not our failure."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
        try:
            s.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError:
            return
