"""The kernel's NVMe-oF host, driven through /dev/nvme-fabrics and sysfs: connect, find the disk, disconnect.

Sources: drivers/nvme/host/fabrics.c (the options and the answer "instance=N,cntlid=M"), Documentation/ABI of
/sys/class/nvme. No nvme-cli is needed.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import time
import uuid
from pathlib import Path
from typing import NamedTuple

from fabricbios.errors import Unsupported, WireError

FABRICS = "/dev/nvme-fabrics"
_SYS = Path("/sys")
_SAFE = re.compile(r"[A-Za-z0-9.:%_/+=-]{1,223}")
_HEAD = re.compile(r"nvme\d+n\d+")  # not nvme0c0n1, the hidden path below a multipath disk
_ANSWER = re.compile(r"instance=(\d+),cntlid=(\d+)")
_HOST_ID_SPACE = uuid.UUID("7d0cf24f-6f4e-5d1f-9f0e-3b6d3f0a2a51")  # names of host NQNs, for uuid5
_POLL, _PROBE = 0.05, 2.0
KEEP_ALIVE = 5  # seconds between two signs of life; a controller that gives none for as long again is unreachable
LOSS_TIMEOUT = 30
"""Seconds that the kernel goes on trying to reach an unreachable controller, its I/O waiting; then it gives up.

fast_io_fail_tmo stays unset: it would fail I/O while the disk may still come back, and what a filesystem does about
one failed write is no better than what it does about all of them.
"""


class Target(NamedTuple):
    """One way to a subsystem, as the binding TLVs 0x0301 to 0x0304, 0x0310 and 0x0311 tell it."""

    nqn: str
    transport: str  # tcp, rdma, loop
    address: str
    service: int
    host_nqn: str
    dhchap_key: str = ""

    def options(self, loss_timeout: int) -> str:
        """Return the line for /dev/nvme-fabrics. WireError for a node's value that could smuggle in another option."""
        options = {"nqn": self.nqn, "transport": self.transport, "hostnqn": self.host_nqn}
        options["hostid"] = str(uuid.uuid5(_HOST_ID_SPACE, self.host_nqn))
        if self.transport != "loop":
            options |= {"traddr": self.address, "trsvcid": str(self.service)}
            options |= {"ctrl_loss_tmo": str(loss_timeout), "reconnect_delay": "2"}
            options["keep_alive_tmo"] = str(KEEP_ALIVE)
        if self.dhchap_key:
            options["dhchap_secret"] = self.dhchap_key
        for key, value in options.items():
            if not _SAFE.fullmatch(value):
                raise WireError(f"the node's {key} for NVMe-oF is malformed")
        return ",".join(f"{key}={value}" for key, value in options.items())


def probe() -> None:
    """Raise Unsupported where this machine has no NVMe-oF host."""
    try:
        os.close(os.open(FABRICS, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        remedy = "modprobe nvme-tcp (or nvme-rdma, nvme-loop), and be root"
        raise Unsupported("nvme-fabrics", f"{FABRICS}: {error.strerror}", remedy) from error


def connect(target: Target, loss_timeout: int = LOSS_TIMEOUT) -> str:
    """Connect and return the controller's name (nvme3).

    The kernel gives up `loss_timeout` seconds after it found the connection broken, which takes at most two KEEP_ALIVE;
    then I/O fails and the controller goes. OSError without the options,
    because the key stands in them: ECONNREFUSED, EACCES (not the host that may), EKEYREJECTED (wrong key), ...
    """
    line = target.options(loss_timeout).encode()
    fd = os.open(FABRICS, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.write(fd, line)
        answer = os.read(fd, 4096).decode("ascii", "replace")
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{target.nqn} at {target.address}") from None
    finally:
        os.close(fd)
    match = _ANSWER.search(answer)
    if not match:
        raise OSError(errno.EPROTO, f"answered {answer!r}", FABRICS)
    return f"nvme{match[1]}"


def subsystems(sys: Path = _SYS) -> tuple[str, ...]:
    """Return the NQNs of all subsystems that this machine is connected to."""
    return tuple(filter(None, (_text(path / "subsysnqn") for path in sorted((sys / "class/nvme").glob("nvme*")))))


def controllers(nqn: str, sys: Path = _SYS) -> tuple[str, ...]:
    """Return the names of this machine's controllers of a subsystem."""
    found = (path for path in sorted((sys / "class/nvme").glob("nvme*")) if _text(path / "subsysnqn") == nqn)
    return tuple(path.name for path in found)


def disks(nqn: str, sys: Path = _SYS) -> tuple[str, ...]:
    """Return the block devices (/dev/nvme3n1) of a subsystem's namespaces, with or without native multipath."""
    blocks = (path for path in sorted((sys / "block").glob("nvme*")) if _HEAD.fullmatch(path.name))
    return tuple(f"/dev/{path.name}" for path in blocks if _text(path / "device/subsysnqn") == nqn)


def wait_for_disk(nqn: str, timeout: float = 10.0) -> str:
    """Return the first disk of a subsystem as soon as its node is there; OSError(ETIMEDOUT) otherwise."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for disk in disks(nqn):
            if os.path.exists(disk):
                return disk
        time.sleep(_POLL)
    raise OSError(errno.ETIMEDOUT, "connected, but no namespace appeared", nqn)


def disconnect(nqn: str, timeout: float = 10.0) -> bool:
    """Delete every controller of a subsystem and wait until its disks are gone; return whether there was one.

    The kernel says good-bye to a target that it believes alive, and waits a minute for an answer. So where nobody
    answers, first wait until the kernel has missed it, which takes two KEEP_ALIVE at most.
    """
    names = controllers(nqn)
    for name in names:
        path = Path("/sys/class/nvme") / name
        if _text(path / "transport") == "tcp" and not _answers(_text(path / "address")):
            _wait_until_missed(path)
        _delete(path / "delete_controller")
    deadline = time.monotonic() + timeout
    while controllers(nqn) or disks(nqn):
        if time.monotonic() > deadline:
            raise OSError(errno.EBUSY, "this controller does not go", nqn)
        time.sleep(_POLL)
    return bool(names)


def _answers(address: str) -> bool:
    """Say whether somebody takes a connection at a controller's address (traddr=...,trsvcid=...)."""
    parts = dict(part.partition("=")[::2] for part in address.split(","))
    if not parts.get("traddr") or not parts.get("trsvcid", "").isdigit():
        return True
    try:
        socket.create_connection((parts["traddr"], int(parts["trsvcid"])), _PROBE).close()
    except OSError:
        return False
    return True


def _wait_until_missed(controller: Path) -> None:
    deadline = time.monotonic() + 2 * KEEP_ALIVE + _PROBE
    while _text(controller / "state") == "live" and time.monotonic() < deadline:
        time.sleep(_POLL)


def _delete(path: Path) -> None:
    """One that is going already is what we want: ENOENT, or ENODEV in the middle of it.

    Opened without O_CREAT: with it sysfs says EACCES of what is not there.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def _text(path: Path) -> str:
    """Return a sysfs attribute, "" where it went away meanwhile."""
    try:
        return path.read_text().strip()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENODEV):
            return ""
        raise
