"""The kernel's NVMe target, driven through configfs; only objects with names of ours are ever touched.

Ours are subsystems and hosts whose NQN starts with NQN_PREFIX, and ports numbered from PORT_BASE that carry a
(disabled) referral named PORT_MARK: a port has no name of its own. Sources: drivers/nvme/target/configfs.c and
the ABI it offers; NVMe over Fabrics 1.1, 3.1.
"""

from __future__ import annotations

import errno
import re
import uuid
from pathlib import Path
from typing import NamedTuple

from fabricbios.errors import LocalMisuse, Unsupported
from fabricbios.hw.configfs import CONFIGFS, Configfs

NQN_PREFIX = "nqn.2026-02.io.fabricbios:"
PORT_BASE = 0xFB00
PORT_MARK = "fabricbios"
TRANSPORTS = ("tcp", "rdma", "loop")  # in the order of NVMEOF_TRTYPE's numbers (0x0304)
MAX_NQN = 223  # NVMe base specification 2.0, 4.5
_NAMESPACE = "namespaces/1"
_OURS = re.compile(re.escape(NQN_PREFIX) + r"[a-z0-9:]{1,180}")


class Listener(NamedTuple):
    """Where a port listens. `address` is numeric, may be a wildcard, and is empty for loop, as `service` is 0."""

    transport: str
    address: str = ""
    service: int = 0

    @property
    def attributes(self) -> tuple[tuple[str, str], ...]:
        """Return the port's attributes in the order in which they are written."""
        if self.transport == "loop":
            return (("addr_trtype", "loop"),)
        family = "ipv6" if ":" in self.address else "ipv4"
        place = (("addr_adrfam", family), ("addr_traddr", self.address), ("addr_trsvcid", str(self.service)))
        return (("addr_trtype", self.transport), *place)


class Nvmet:
    """Subsystems with one namespace each, hosts, and the ports they share. Idempotent both ways; OSError with path.

    `listeners` has at most one of each transport. The caller sees to it that `offer` and `withdraw` do not overlap.
    """

    def __init__(self, listeners: tuple[Listener, ...] = (), root: Path = CONFIGFS / "nvmet") -> None:
        self.fs = Configfs(root)
        self.listeners = {listener.transport: listener for listener in listeners}
        if len(self.listeners) != len(listeners) or not set(self.listeners) <= set(TRANSPORTS):
            raise LocalMisuse(f"listeners {listeners}")

    def probe(self) -> bool:
        """Make and remove a host; return whether DH-HMAC-CHAP keys can be set. Raise Unsupported without a target."""
        host = NQN_PREFIX + "probe"
        try:
            self.fs.mkdir(_host(host))
            able = self.fs.exists(f"{_host(host)}/dhchap_key")
            self.fs.rmdir(_host(host))
        except OSError as error:
            remedy = "modprobe nvmet nvmet-tcp; mount -t configfs none /sys/kernel/config"
            raise Unsupported("nvmet", f"{error.filename}: {error.strerror}", remedy) from error
        return able

    def make_subsystem(self, nqn: str, serial: str) -> None:
        """Make a subsystem that nobody may connect to yet. `serial` has at most 20 characters."""
        path = _subsystem(nqn)
        if self.fs.mkdir(path):
            self.fs.write(f"{path}/attr_serial", serial)
        self.fs.write(f"{path}/attr_allow_any_host", "0")

    def remove_subsystem(self, nqn: str) -> None:
        """Remove it with its namespace. Its controllers are disconnected by the kernel."""
        self.remove_namespace(nqn)
        self.fs.rmdir(_subsystem(nqn))

    def make_namespace(self, nqn: str, device: str, identity: uuid.UUID) -> None:
        """Serve `device` (a block device or a file) as namespace 1."""
        path = f"{_subsystem(nqn)}/{_NAMESPACE}"
        self.fs.mkdir(path)
        if self.fs.read(f"{path}/enable") == "1":
            return
        self.fs.write(f"{path}/device_path", device)
        self.fs.write(f"{path}/device_uuid", str(identity))
        self.fs.write(f"{path}/enable", "1")

    def remove_namespace(self, nqn: str) -> None:
        """Close the device: the kernel waits for the commands under way, further ones fail."""
        path = f"{_subsystem(nqn)}/{_NAMESPACE}"
        if self.fs.exists(path):
            self.fs.write(f"{path}/enable", "0")
            self.fs.rmdir(path)

    def allow_host(self, nqn: str, host: str, dhchap_key: str) -> None:
        """Let `host` connect to the subsystem, and nobody else; where the kernel can, only if it proves the key."""
        self.set_key(host, dhchap_key)
        self.fs.link(f"{_subsystem(nqn)}/allowed_hosts/{host}", _host(host))

    def set_key(self, host: str, dhchap_key: str) -> None:
        """Make the host if need be and set its DH-HMAC-CHAP key, for connections from now on."""
        self.fs.mkdir(_host(host))
        if self.fs.exists(f"{_host(host)}/dhchap_key"):
            self.fs.write(f"{_host(host)}/dhchap_key", dhchap_key)

    def key(self, host: str) -> str:
        """Return the key that a host has to prove, "" for none."""
        path = f"{_host(host)}/dhchap_key"
        return self.fs.read(path) if self.fs.exists(path) else ""

    def remove_hosts(self, nqn: str, suffix: str) -> None:
        """Forbid the hosts of ours whose names end in `suffix`, and forget their keys.

        Established connections end with the port's link, not here.
        """
        links = f"{_subsystem(nqn)}/allowed_hosts"
        for host in {*self.fs.names(links), *self.fs.names("hosts")}:
            if host.startswith(NQN_PREFIX) and host.endswith(suffix):
                self.fs.unlink(f"{links}/{host}")
                self.fs.rmdir(_host(host))

    def serves(self, nqn: str, device: str, host: str) -> bool:
        """Say whether the subsystem is complete but for the ports: it serves `device` to `host` and to nobody else."""
        namespace = f"{_subsystem(nqn)}/{_NAMESPACE}"
        if self.fs.names(f"{_subsystem(nqn)}/allowed_hosts") != (_checked(host),) or not self.fs.exists(namespace):
            return False
        served = self.fs.read(f"{namespace}/device_path") if self.fs.read(f"{namespace}/enable") == "1" else ""
        return served == device and self.fs.read(f"{_subsystem(nqn)}/attr_allow_any_host") == "0"

    def offer(self, nqn: str) -> None:
        """Offer the subsystem on our ports, which start to listen with the first subsystem on them."""
        for transport in self.listeners:
            port = self._make_port(transport)
            self.fs.link(f"{port}/subsystems/{_checked(nqn)}", _subsystem(nqn))

    def withdraw(self, nqn: str) -> None:
        """Take the offer back: the kernel disconnects the hosts. A port goes with the last subsystem on it.

        All our ports are looked at: the configuration may have changed since the offer.
        """
        for transport in TRANSPORTS:
            if self._port_state(transport) == "ours":
                self.fs.unlink(f"{_port(transport)}/subsystems/{_checked(nqn)}")
                self._remove_idle_port(_port(transport))

    def ours(self) -> tuple[str, ...]:
        """Return the NQNs of our subsystems and hosts, whoever made them: a killed predecessor's are among them."""
        names = (*self.fs.names("subsystems"), *self.fs.names("hosts"))
        return tuple(name for name in names if name.startswith(NQN_PREFIX))

    def _make_port(self, transport: str) -> str:
        port = _port(transport)
        if self._port_state(transport) == "foreign":
            raise OSError(errno.EBUSY, "this nvmet port is not ours", str(self.fs.root / port))
        self.fs.mkdir(port)
        self.fs.mkdir(f"{port}/referrals/{PORT_MARK}")
        if not self.fs.names(f"{port}/subsystems"):
            for attribute, value in self.listeners[transport].attributes:
                self.fs.write(f"{port}/{attribute}", value)
        return port

    def _remove_idle_port(self, port: str) -> None:
        if not self.fs.names(f"{port}/subsystems"):
            self.fs.rmdir(f"{port}/referrals/{PORT_MARK}")
            self.fs.rmdir(port)

    def _port_state(self, transport: str) -> str:
        """Return missing, ours or foreign.

        A process killed while making a port leaves it blank, one killed while removing it leaves it with our address;
        both without the mark. With our number and without subsystems such a port is ours.
        """
        port = _port(transport)
        if not self.fs.exists(port):
            return "missing"
        if self.fs.exists(f"{port}/referrals/{PORT_MARK}"):
            return "ours"
        if self.fs.names(f"{port}/subsystems"):
            return "foreign"
        wanted = dict(self.listeners.get(transport, Listener(transport)).attributes)
        present = {name: self.fs.read(f"{port}/{name}") for name in wanted}
        blank = not self.fs.read(f"{port}/addr_trtype")
        return "ours" if blank or present == wanted else "foreign"


def _port(transport: str) -> str:
    return f"ports/{PORT_BASE + TRANSPORTS.index(transport)}"


def _subsystem(nqn: str) -> str:
    return f"subsystems/{_checked(nqn)}"


def _host(nqn: str) -> str:
    return f"hosts/{_checked(nqn)}"


def _checked(nqn: str) -> str:
    """Refuse a name that is not ours before it becomes a path."""
    if not _OURS.fullmatch(nqn) or len(nqn) > MAX_NQN:
        raise LocalMisuse(f"{nqn!r} is no NQN of ours")
    return nqn
