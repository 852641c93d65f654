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
import re
import threading
import uuid
import zlib
from collections.abc import Sequence
from typing import Any

from fabricbios.dataplane.blockpool import BlockPool, Region
from fabricbios.hw import loop
from fabricbios.hw.nvmet import NQN_PREFIX, TRANSPORTS, Listener, Nvmet
from fabricbios.model import BLOCK_SIZE, Perm
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
_LEASE_IN_NAME = re.compile(r":([0-9a-f]{32})$")


class NvmeofPlane:
    """ports.DataPlane for Binding.NVMEOF. Steps may run in any thread; OSError is the kernel's, path included."""

    def __init__(self, pool: BlockPool, nvmet: Nvmet) -> None:
        self._pool = pool
        self._nvmet = nvmet
        self._ports = threading.Lock()  # all leases share them, and the last one takes them down

    def steps(self, lease: LeaseSpec) -> tuple[str, ...]:
        """Name the do-steps. Access begins with the last and so ends with the first undo."""
        return STEPS

    def do(self, step: str, lease: LeaseSpec) -> Sequence[Any]:
        """Carry out one step; the last returns the binding TLVs. Raises KeyError for a foreign step."""
        nqn = subsystem_nqn(lease.lease_id)
        match step:
            case "block.extent":
                self._place(lease)
            case "nvmeof.device":
                self._attach_device(lease)
            case "nvmeof.subsystem":
                self._nvmet.make_subsystem(nqn, f"{lease.lease_id:032x}"[-20:])
            case "nvmeof.namespace":
                self._nvmet.make_namespace(nqn, self._device(lease), uuid.UUID(int=lease.lease_id))
            case "nvmeof.host":
                self._nvmet.allow_host(nqn, host_nqn(lease), dhchap_key(lease.dp_key))
            case "nvmeof.port":
                return self._offer(lease)
            case _:
                raise KeyError(step)
        return ()

    def undo(self, step: str, lease: LeaseSpec) -> None:
        """Take one step back, whoever did it. OSError means that it is not undone: retry, then fence."""
        self._undo(step, lease.lease_id)

    def renew(self, lease: LeaseSpec) -> None:
        """Nothing in the kernel holds the end of the lease."""

    def rekey(self, lease: LeaseSpec) -> Sequence[Any]:
        """Disconnect who came with the old key, and let the holder in with the new one."""
        with self._ports:
            self._nvmet.withdraw(subsystem_nqn(lease.lease_id))
        self._nvmet.set_key(host_nqn(lease), dhchap_key(lease.dp_key))
        return self._offer(lease)

    def forget(self, lease: LeaseSpec) -> None:
        """Nothing is kept: after teardown the name is unknown to the target."""

    def adopt(self, lease: LeaseSpec) -> Sequence[Any]:
        """Go on with what a predecessor bound: its bytes, device, subsystem, host and key are all still in the kernel.

        Raises OSError(ENOENT) where one of them is not: then the lease is to be torn down.
        """
        nqn = subsystem_nqn(lease.lease_id)
        device = self._device(lease)
        if not self._nvmet.serves(nqn, device, host_nqn(lease)):
            raise OSError(errno.ENOENT, "the subsystem is gone or incomplete", nqn)
        return self._offer(lease)

    def orphans(self, known: set[int]) -> set[int]:
        """Return the leases that are served, or half so, and that the lease journal does not know.

        Their extents are the pool's to find; release these first, because nothing may be wiped that is still served.
        """
        names = [*self._nvmet.ours(), *loop.names()]
        found = {int(match[1], 16) for name in names if (match := _LEASE_IN_NAME.search(name))}
        return found - known

    def release(self, lease_id: int) -> None:
        """Take back all that an orphan had. Raises OSError; call again."""
        for step in reversed(STEPS):
            self._undo(step, lease_id)

    def _undo(self, step: str, lease_id: int) -> None:
        nqn = subsystem_nqn(lease_id)
        match step:
            case "nvmeof.port":
                with self._ports:
                    self._nvmet.withdraw(nqn)
            case "nvmeof.host":
                self._nvmet.remove_hosts(nqn, f":{lease_id:032x}")
            case "nvmeof.namespace":
                self._nvmet.remove_namespace(nqn)
            case "nvmeof.subsystem":
                self._nvmet.remove_subsystem(nqn)
            case "nvmeof.device":
                loop.detach(device_name(lease_id))
            case "block.extent":
                self._pool.release(lease_id)
            case _:
                raise KeyError(step)

    def _place(self, lease: LeaseSpec) -> None:
        """nvmet opens its devices for writing: a lease without that right cannot be had this way."""
        if not lease.rights & Perm.WRITE:
            raise OSError(errno.EROFS, "nvmet serves no read-only namespaces")
        if lease.size <= 0 or lease.size % BLOCK_SIZE:
            raise OSError(errno.EINVAL, f"{lease.size} bytes are no whole number of blocks")
        self._pool.place(lease.lease_id, lease.resource_id, lease.size)

    def _attach_device(self, lease: LeaseSpec) -> None:
        """Make a device of the extent, unless it is a whole disk or file, which nvmet takes as it is."""
        region = self._region(lease)
        region.backing.check()
        if not _is_whole(region, lease.size):
            # Opened anew: a loop device that shared our descriptor would keep its lock after we are gone.
            loop.attach(device_name(lease.lease_id), f"/proc/self/fd/{region.backing.fd}", region.base, lease.size)

    def _device(self, lease: LeaseSpec) -> str:
        """Return what nvmet is to serve. OSError where it is gone, or the backing was truncated."""
        region = self._region(lease)
        region.backing.check()
        if _is_whole(region, lease.size):
            return region.backing.path
        device = loop.find(device_name(lease.lease_id))
        if not device:
            raise OSError(errno.ENOENT, "the extent has no loop device", region.backing.path)
        return device

    def _region(self, lease: LeaseSpec) -> Region:
        region = self._pool.find(lease.lease_id)
        if region is None:
            raise OSError(errno.ENOENT, "nothing is known of where this lease lies")
        return region

    def _offer(self, lease: LeaseSpec) -> Sequence[Any]:
        """Open the ways to the subsystem; tell them with the key that the kernel holds, which may not know of any."""
        nqn = subsystem_nqn(lease.lease_id)
        with self._ports:
            self._nvmet.offer(nqn)
        ways = [tlv for listener in self._nvmet.listeners.values() for tlv in _way(listener, lease.reached)]
        key = self._nvmet.key(host_nqn(lease))
        credentials = [NvmeofDhchapKey(key)] if key else []
        return [NvmeofNqn(nqn), *ways, *credentials, NvmeofHostNqn(host_nqn(lease))]


def subsystem_nqn(lease_id: int) -> str:
    """Return the NQN under which a lease is served."""
    return f"{NQN_PREFIX}lease:{lease_id:032x}"


def host_nqn(lease: LeaseSpec) -> str:
    """Return the NQN as which the holder has to connect."""
    return f"{NQN_PREFIX}host:{lease.holder:032x}:{lease.lease_id:032x}"


def device_name(lease_id: int) -> str:
    """Return the name of the loop device over a lease's extent."""
    return f"{loop.NAME_PREFIX}{lease_id:032x}"


def dhchap_key(dp_key: bytes) -> str:
    """Return the DH-HMAC-CHAP secret made of a lease's key: 256 bits for SHA-256, with the CRC-32 the form wants."""
    secret = hmac.digest(dp_key, _KEY_LABEL, "sha256")
    checked = secret + zlib.crc32(secret).to_bytes(4, "little")
    return f"DHHC-1:01:{base64.b64encode(checked).decode()}:"


def _is_whole(region: Region, size: int) -> bool:
    """Say whether a lease has all of its file or device, so that nothing has to stand between nvmet and it."""
    return region.base == 0 and size == os.lseek(region.backing.fd, 0, os.SEEK_END)


def _way(listener: Listener, reached: str) -> list[Any]:
    """Return TRADDR, TRSVCID and TRTYPE; under a wildcard the address that the asker reached (D9)."""
    address = reached.removeprefix(_V4_MAPPED) if listener.address in _WILDCARDS else listener.address
    kind = NvmeofTransport(TRANSPORTS.index(listener.transport))
    return [NvmeofTraddr(address), NvmeofTrsvcid(listener.service), NvmeofTrtype(kind)]
