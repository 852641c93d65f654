"""Bind a block lease to NVMe over Fabrics: the kernel's target serves the extent, and only to the lease's holder.

Names carry the lease, so that any process can take back what any other (killed) one made:
subsystem `nqn...:lease:<lease>`, host `nqn...:host:<holder>:<lease>`, loop device `fabricbios:<lease>` (32 hex digits
each). The kernel keeps one DH-HMAC-CHAP key a host, not one a subsystem: so that each lease has a key of its own, each
has a host name of its own. TLVs: 0x0301-0x0304 (wire encoding, "NVMe-oF dataplane binding TLVs"), once for the
subsystem and once for each way to it, and two of our own: 0x0310 NVMEOF_DHCHAP_KEY (UTF-8, the key in the form of
NVMe base specification 2.0, 8.13.5.8) and 0x0311 NVMEOF_HOST_NQN (UTF-8, as whom the holder has to connect).

Unlike UDP's data planes nothing in the kernel watches the lease's clock: expiry needs the daemon (D8).
"""

from __future__ import annotations

import base64
import errno
import hmac
import os
import threading
import uuid
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from fabricbios.hw import loop
from fabricbios.hw.nvmet import NQN_PREFIX, TRANSPORTS, Listener, Nvmet
from fabricbios.model import Perm
from fabricbios.ports import LeaseSpec
from fabricbios.wire import (
    NvmeofDhchapKey,
    NvmeofHostNqn,
    NvmeofNqn,
    NvmeofTraddr,
    NvmeofTransport,
    NvmeofTrsvcid,
    NvmeofTrtype,
)

STEPS = ("block.extent", "nvmeof.device", "nvmeof.subsystem", "nvmeof.namespace", "nvmeof.host", "nvmeof.port")
_WILDCARDS = ("0.0.0.0", "::")
_KEY_LABEL = b"fabricbios-nvmeof-dhchap\0"
_V4_MAPPED = "::ffff:"


class Backing(NamedTuple):
    """Where a lease's blocks are: bytes `offset` to `offset + length` of a file or block device."""

    path: str
    offset: int
    length: int

    @property
    def whole(self) -> bool:
        """Say whether that is all there is: then nothing has to stand between nvmet and the backing."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return self.offset == 0 and self.length == os.lseek(fd, 0, os.SEEK_END)
        finally:
            os.close(fd)


class Extents(Protocol):
    """Who gives out parts of the node's disks, and wipes them when they come back. All three are idempotent."""

    def carve(self, lease: LeaseSpec) -> Backing:
        """Return the extent of a lease, taken now if need be. OSError(ENOSPC) if there is none."""

    def where(self, lease: LeaseSpec) -> Backing:
        """Return the extent that `carve` took. OSError(ENOENT) if there is none."""

    def release(self, lease: LeaseSpec) -> None:
        """Wipe the extent and take it back."""


class NvmeofPlane:
    """ports.DataPlane for Binding.NVMEOF. Steps may run in any thread; OSError is the kernel's, path included."""

    def __init__(self, extents: Extents, nvmet: Nvmet) -> None:
        self._extents = extents
        self._nvmet = nvmet
        self._ports = threading.Lock()  # all leases share them, and the last one takes them down

    def steps(self, lease: LeaseSpec) -> tuple[str, ...]:
        """Name the do-steps. Access begins with the last and so ends with the first undo."""
        return STEPS

    def do(self, step: str, lease: LeaseSpec) -> Sequence[Any]:
        """Carry out one step; the last returns the binding TLVs. Raises KeyError for a foreign step."""
        match step:
            case "block.extent":
                self._extents.carve(lease)
            case "nvmeof.device":
                self._attach_device(lease)
            case "nvmeof.subsystem":
                self._nvmet.make_subsystem(subsystem_nqn(lease), f"{lease.lease_id:032x}"[:20])
            case "nvmeof.namespace":
                self._nvmet.make_namespace(subsystem_nqn(lease), self._device(lease), uuid.UUID(int=lease.lease_id))
            case "nvmeof.host":
                self._nvmet.allow_host(subsystem_nqn(lease), host_nqn(lease), self._dhchap_key(lease))
            case "nvmeof.port":
                return self._offer(lease)
            case _:
                raise KeyError(step)
        return ()

    def undo(self, step: str, lease: LeaseSpec) -> None:
        """Take one step back, whoever did it. OSError means that it is not undone: retry, then fence."""
        match step:
            case "nvmeof.port":
                with self._ports:
                    self._nvmet.withdraw(subsystem_nqn(lease))
            case "nvmeof.host":
                self._nvmet.remove_host(subsystem_nqn(lease), host_nqn(lease))
            case "nvmeof.namespace":
                self._nvmet.remove_namespace(subsystem_nqn(lease))
            case "nvmeof.subsystem":
                self._nvmet.remove_subsystem(subsystem_nqn(lease))
            case "nvmeof.device":
                loop.detach(device_name(lease))
            case "block.extent":
                self._extents.release(lease)
            case _:
                raise KeyError(step)

    def renew(self, lease: LeaseSpec) -> None:
        """Nothing in the kernel holds the end of the lease."""

    def rekey(self, lease: LeaseSpec) -> Sequence[Any]:
        """Disconnect who came with the old key, and let the holder in with the new one."""
        with self._ports:
            self._nvmet.withdraw(subsystem_nqn(lease))
        self._nvmet.set_key(host_nqn(lease), self._dhchap_key(lease))
        return self._offer(lease)

    def forget(self, lease: LeaseSpec) -> None:
        """Nothing is kept: after teardown the name is unknown to the target."""

    def _attach_device(self, lease: LeaseSpec) -> None:
        """nvmet opens its devices for writing: a lease without that right cannot be had this way."""
        if not lease.rights & Perm.WRITE:
            raise OSError(errno.EROFS, "nvmet serves no read-only namespaces", subsystem_nqn(lease))
        backing = self._extents.where(lease)
        if not backing.whole:
            loop.attach(device_name(lease), *backing)

    def _device(self, lease: LeaseSpec) -> str:
        """Return what nvmet is to serve. OSError(ENOENT) where the backing changed its size meanwhile."""
        backing = self._extents.where(lease)
        device = loop.find(device_name(lease)) or (backing.path if backing.whole else "")
        if not device:
            raise OSError(errno.ENOENT, "the extent has no block device", backing.path)
        return device

    def _offer(self, lease: LeaseSpec) -> Sequence[Any]:
        with self._ports:
            self._nvmet.offer(subsystem_nqn(lease))
        ways = [tlv for listener in self._nvmet.listeners.values() for tlv in _way(listener, lease.reached)]
        key = self._dhchap_key(lease)
        credentials = [NvmeofDhchapKey(key)] if key else []
        return [NvmeofNqn(subsystem_nqn(lease)), *ways, *credentials, NvmeofHostNqn(host_nqn(lease))]

    def _dhchap_key(self, lease: LeaseSpec) -> str:
        return dhchap_key(lease.dp_key) if self._nvmet.probe() else ""


def subsystem_nqn(lease: LeaseSpec) -> str:
    """Return the NQN under which the lease is served."""
    return f"{NQN_PREFIX}lease:{lease.lease_id:032x}"


def host_nqn(lease: LeaseSpec) -> str:
    """Return the NQN as which the holder has to connect."""
    return f"{NQN_PREFIX}host:{lease.holder:032x}:{lease.lease_id:032x}"


def device_name(lease: LeaseSpec) -> str:
    """Return the name of the loop device over the lease's extent."""
    return f"fabricbios:{lease.lease_id:032x}"


def dhchap_key(dp_key: bytes) -> str:
    """Return the DH-HMAC-CHAP secret made of a lease's key: 256 bits for SHA-256, with the CRC-32 the form wants."""
    secret = hmac.digest(dp_key, _KEY_LABEL, "sha256")
    checked = secret + zlib.crc32(secret).to_bytes(4, "little")
    return f"DHHC-1:01:{base64.b64encode(checked).decode()}:"


def _way(listener: Listener, reached: str) -> list[Any]:
    """Return TRADDR, TRSVCID and TRTYPE; under a wildcard the address that the asker reached (D9)."""
    address = reached.removeprefix(_V4_MAPPED) if listener.address in _WILDCARDS else listener.address
    kind = NvmeofTransport(TRANSPORTS.index(listener.transport))
    return [NvmeofTraddr(address), NvmeofTrsvcid(listener.service), NvmeofTrtype(kind)]
