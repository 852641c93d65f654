"""Facts about this build, this boot and this node that core is told at start."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from fabricbios import __version__
from fabricbios.daemon.storewatch import WELL, StoreState
from fabricbios.errors import ConfigError
from fabricbios.model import hex128

CONTROLLER = "controller"  # beside the node's own identity; `fabricbios trust init-ca` makes it


def boot_id() -> str:
    """Return the kernel's id of this boot (random(4)): CLOCK_BOOTTIME means nothing beyond it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def info(paths: Mapping[str, str], stores: Mapping[int, StoreState]) -> tuple[tuple[str, str], ...]:
    """Return GET_BUILD_INFO's pairs; `path.PLANE` says which path serves a data plane, and why, `store.RESOURCE` what
    is wrong with a store of block leases."""
    return (
        ("version", __version__),
        ("implementation", "fabricbios-linux"),
        ("python", platform.python_version()),
        ("kernel", platform.release()),
        ("machine", platform.machine()),
        *((f"path.{plane}", how) for plane, how in paths.items()),
        *((f"store.{hex128(rid)}", f"{s.state}: {s.why}") for rid, s in stores.items() if s.state != WELL),
    )


def public(key: Ed25519PrivateKey | None) -> bytes:
    """Return a raw public key, zeros for no key."""
    return bytes(32) if key is None else key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def controller_key(state_dir: Path) -> Ed25519PrivateKey | None:
    """Return the key that makes this node certify others (D3b), None if it holds none. ConfigError if broken."""
    path = state_dir / CONTROLLER / "node.key"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: not an Ed25519 private key in PEM: make one with `fabricbios trust init-ca`")
    return key
