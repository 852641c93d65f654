"""The machine's hardware for whoever may not import `hw`: the CLI's `inventory` command."""

from __future__ import annotations

from typing import Any

from fabricbios.hw import inventory, xdp_features


def local_inventory(root: str = "/") -> dict[str, Any]:
    """Return this machine's hardware as the document of docs/schema/inventory.json. Read-only."""
    features = xdp_features.features() if root == "/" else {}

    def xdp(interface: str) -> str:
        return xdp_features.describe(features[interface]) if interface in features else ""

    return inventory.detect(root, xdp).to_json()
