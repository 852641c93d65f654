"""The machine's hardware for whoever may not import `hw`: the CLI's `inventory` command."""

from __future__ import annotations

from typing import Any

from fabricbios.hw import inventory


def local_inventory(root: str = "/") -> dict[str, Any]:
    """Return this machine's hardware as the document of docs/schema/inventory.json. Read-only."""
    return inventory.detect(root).to_json()
