"""Every setting of `fabricbiosd node`, once: the flag, the TOML key, its parser, its default, its help.

The click options, the config file and the docs page are all made from SETTINGS (interfaces.md fixes the names).
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

from fabricbios.model import CONTROL_PORT, DISCOVERY_PORT, FBBU_PORT, FBMU_PORT, DpAuth

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", re.IGNORECASE)


def parse_size(text: str | int) -> int:
    """Return bytes from "64M", "1GiB", "512 k" or a number; k, M, G, T are powers of 1024. ValueError else.

    Exact: a float would round what is above 2**53.
    """
    match = _SIZE.fullmatch(str(text).strip())
    if not match:
        raise ValueError(f"{text!r} is not a size such as 64M, 1GiB or 4096")
    unit = 1 << {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[match[2].lower()]
    return int(Fraction(match[1]) * unit)


def parse_duration(text: str | float) -> int:
    """Return whole seconds, rounded up, from "30s", "5m", "1h", "2d" or a number of seconds. ValueError else."""
    match = _DURATION.fullmatch(str(text).strip())
    if not match:
        raise ValueError(f"{text!r} is not a time such as 30s, 5m or 1h")
    unit_ms = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}[(match[2] or "s").lower()]
    return math.ceil(Fraction(match[1]) * unit_ms / 1000)


def parse_endpoint(text: str) -> tuple[str, int]:
    """Return (host, port) from HOST:PORT or [V6]:PORT; ValueError else."""
    host, colon, port = _text(text).rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT")
    try:
        host.encode("idna")  # as getaddrinfo(3)'s wrapper does, which would not say whose word it was
    except UnicodeError:
        raise ValueError(f"{host!r} is no host's name") from None
    return host.strip("[]"), int(port)


def parse_dp_auths(text: str) -> tuple[DpAuth, ...]:
    """Return the offered DP_AUTH modes from "hmac-header,blake2s"; ValueError else."""
    try:
        return tuple(dict.fromkeys(DpAuth.of(word.strip()) for word in text.split(",")))
    except KeyError as e:
        raise ValueError(f"{e.args[0]!r} is none of {', '.join(a.label for a in DpAuth)}") from None


def _address(text: str) -> str:
    return str(ipaddress.ip_address(_text(text)))  # which takes a number for an address


def _port(text: str | int) -> int:
    if not str(text).isdecimal() or int(text) > 65535:
        raise ValueError(f"{text!r} is not a port: 0 to 65535")
    return int(text)


def _interval(text: str | float) -> int:
    seconds = parse_duration(text)
    if not 1 <= seconds <= 3600:
        raise ValueError("an interval is 1s to 1h")
    return seconds


def one_of(*words: str) -> Callable[[str], str]:
    """Return a parser that takes just these words."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is none of {', '.join(words)}")
        return text

    return parse


def _text(text: Any) -> str:
    """Return a TOML value that must be a string. ValueError else."""
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is not text")
    if not text or "\0" in text:
        raise ValueError("an empty name")
    return text


class Setting(NamedTuple):
    """`name` with dashes is the flag, with underscores the TOML key; `many` makes it repeatable."""

    name: str
    parse: Callable[[Any], Any]
    default: Any
    metavar: str
    help: str
    many: bool = False

    @property
    def key(self) -> str:
        return self.name.replace("-", "_")


SETTINGS: tuple[Setting, ...] = (
    Setting("state-dir", _text, "/var/lib/fabricbios", "DIR", "identity, journal, what was learned (mode 0700)"),
    Setting("runtime-dir", _text, "/run/fabricbios", "DIR", "what need not outlive a boot"),
    Setting("bind", _address, ("::",), "ADDR", "address to serve on", many=True),
    Setting("control-port", _port, CONTROL_PORT, "PORT", "QUIC control plane; 0 picks one"),
    Setting("discovery-port", _port, DISCOVERY_PORT, "PORT", "UDP discovery; 0 picks one"),
    Setting("fbmu-port", _port, FBMU_PORT, "PORT", "UDP memory data plane; 0 picks one"),
    Setting("fbbu-port", _port, FBBU_PORT, "PORT", "UDP block data plane; 0 picks one"),
    Setting("metrics", parse_endpoint, None, "ADDR:PORT", "serve Prometheus metrics here; off by default"),
    Setting("relay", parse_endpoint, (), "HOST:PORT", "relay to announce to", many=True),
    Setting("announce-interval", _interval, 30, "TIME", "time between announcements"),
    Setting("discovery-iface", _text, (), "IFACE", "interface to multicast on; none by default", many=True),
    Setting("mem-capacity", parse_size, 0, "SIZE", "memory to lease out; 0 leases none"),
    Setting("block", _text, (), "PATH[:SIZE]", "file or block device to lease out", many=True),
    Setting("block-force", _text, (), "PATH", "lease this one even though it looks used", many=True),
    Setting("block-wipe", one_of("discard", "zero", "none"), "zero", "HOW", "what happens to a block lease's data"),
    Setting("block-sync", one_of("none", "datasync"), "datasync", "HOW", "how durable an acknowledged write is"),
    Setting("nvmeof", _text, "auto", "LIST", "of tcp:PORT, rdma:PORT, loop; or auto (tcp, where the kernel can), off"),
    Setting("net-parent", _text, (), "IFACE", "parent of leased network interfaces", many=True),
    Setting("trust", one_of("tofu", "pinned", "certified"), "tofu", "MODE", "whom to trust"),
    Setting("trust-dir", _text, "/etc/fabricbios/trust.d", "DIR", "peers/*.pem and controllers/*.pem"),
    Setting("xdp", one_of("auto", "native", "generic", "off"), "auto", "MODE", "kernel fast path"),
    Setting("xdp-iface", _text, (), "IFACE", "interface to attach the fast path to", many=True),
    Setting("dp-auth", parse_dp_auths, tuple(DpAuth), "LIST", "of hmac-header,hmac-full,blake2s,siphash"),
    Setting("drivers", one_of("auto", "simulated"), "auto", "WHICH", "simulated: no hardware is touched"),
    Setting("on-stop", one_of("teardown", "handover"), "teardown", "WHAT", "what SIGTERM does with leases"),
    Setting("log-format", one_of("journal", "text", "json"), "text", "FORMAT", "how to log, on standard error"),
)
BY_KEY = {s.key: s for s in SETTINGS}
