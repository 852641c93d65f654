"""The node's configuration: TOML file, drop-ins, flags; read whole and checked before anything starts.

Later wins: defaults, FILE, FILE's conf.d/*.toml in name order, flags. A wrong one raises ConfigError
that names file, key and remedy; nothing is half applied. Wrong is also one that others could have written: it
says who may do what.
"""

from __future__ import annotations

import functools
import operator
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fabricbios.core.policy import Limits, Policy
from fabricbios.daemon.settings import BY_KEY, SETTINGS, Setting, parse_duration, parse_size
from fabricbios.errors import ConfigError
from fabricbios.model import DpAuth, Perm, ResourceType
from fabricbios.transport import writers

_MAX_FILE = 1 << 20
_PEER = re.compile(r"0x[0-9a-fA-F]{32}")


class Config(NamedTuple):
    """Parsed settings; the fields are SETTINGS' keys, and the policy tables."""

    state_dir: Path
    runtime_dir: Path
    bind: tuple[str, ...]
    control_port: int
    discovery_port: int
    fbmu_port: int
    fbbu_port: int
    metrics: tuple[str, int] | None
    relay: tuple[tuple[str, int], ...]
    announce_interval: int
    discovery_iface: tuple[str, ...]
    mem_capacity: int
    block: tuple[str, ...]
    block_force: tuple[str, ...]
    block_wipe: str
    block_sync: str
    nvmeof: str
    net_parent: tuple[str, ...]
    trust: str
    trust_dir: Path
    xdp: str
    xdp_iface: tuple[str, ...]
    dp_auth: tuple[DpAuth, ...]
    drivers: str
    on_stop: str
    log_format: str
    policy: Policy


def load(file: Path | None, flags: Mapping[str, Any]) -> Config:
    """Return the whole configuration. `flags` maps keys to strings, or lists of them; None is unset."""
    values: dict[str, Any] = {s.key: s.default for s in SETTINGS}
    policy: dict[str, Any] = {}
    for path in _files(file):
        document = _document(path)
        policy = _merged(policy, document.pop("policy", {}), path)
        for key, raw in document.items():
            setting = _setting(key, path)
            values[setting.key] = _value(setting, raw, f"{path}: {key}")
    for key, raw in flags.items():
        if raw is not None and raw != ():
            values[key] = _value(BY_KEY[key], raw, f"--{BY_KEY[key].name}")
    for key in ("state_dir", "runtime_dir", "trust_dir"):
        values[key] = Path(values[key])
    return Config(**values, policy=_policy(policy))


def _files(file: Path | None) -> list[Path]:
    if file is None:
        return []
    for directory in (file.parent, file.parent / "conf.d"):
        try:
            why = writers.directory_objection(directory, sticky=True)  # each file is looked at, too
        except OSError as e:
            raise ConfigError(f"{directory}: {e.strerror}: check --config") from None
        if why:
            raise ConfigError(f"{directory} {why}")
    return [file, *sorted((file.parent / "conf.d").glob("*.toml"))]


def _document(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as f:
            why = writers.objection(path, os.fstat(f.fileno()))
            data = f.read(_MAX_FILE + 1)
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}: check --config") from None
    if why:
        raise ConfigError(f"{path} {why}")
    if len(data) > _MAX_FILE:
        raise ConfigError(f"{path}: over 1 MiB: this is no configuration")
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: not TOML: {e}") from None


def _setting(key: str, path: Path) -> Setting:
    setting = BY_KEY.get(key.replace("-", "_"))
    if setting is None:
        raise ConfigError(f"{path}: {key}: no such key; the keys are the flags of `fabricbiosd node --help`")
    return setting


def _value(setting: Setting, raw: Any, where: str) -> Any:
    try:
        if setting.many:
            items = raw if isinstance(raw, (list, tuple)) else [raw]
            return tuple(setting.parse(item) for item in items)
        if isinstance(raw, (list, tuple)) and setting.key == "dp_auth":
            raw = ",".join(map(str, raw))
        if isinstance(raw, (dict, list, tuple, bool)):
            raise ValueError(f"takes one {setting.metavar}")
        return setting.parse(raw)
    except (ValueError, TypeError) as e:
        raise ConfigError(f"{where}: {e}") from None


def _merged(old: dict[str, Any], new: Any, path: Path) -> dict[str, Any]:
    if not isinstance(new, dict) or set(new) - {"default", "peer"}:
        raise ConfigError(f'{path}: policy: takes [policy.default] and [policy.peer."0x..."]')
    peers = new.get("peer", {})
    if not isinstance(peers, dict) or not all(isinstance(p, dict) for p in (*peers.values(), new.get("default", {}))):
        raise ConfigError(f"{path}: policy.peer: each peer is a table")
    try:
        _policy(new)  # while it is known whose words they are
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from None
    return {
        "default": {**old.get("default", {}), **new.get("default", {})},
        "peer": {**old.get("peer", {}), **peers},
    }


def _policy(tables: Mapping[str, Any]) -> Policy:
    default = _limits(tables.get("default", {}), Limits(), "policy.default")
    peers = {}
    for name, table in tables.get("peer", {}).items():
        if not _PEER.fullmatch(name):  # a limit for a mistyped id would bind nobody
            raise ConfigError(f"policy.peer.{name!r}: a peer is its id, 0x and 32 digits")
        node_id = int(name, 16)
        if node_id in peers:
            raise ConfigError(f"policy.peer.{name!r}: that peer is there already, in other letters")
        peers[node_id] = _limits(table, default, f"policy.peer.{name!r}")
    return Policy(default, peers)


def _words(raw: Any) -> Iterable[str]:
    """Return the strings of a TOML list. ValueError for anything else: a string would be a list of letters."""
    if not isinstance(raw, list) or not all(isinstance(word, str) for word in raw):
        raise ValueError(f"{raw!r} is not a list of words")
    return raw


def _count(raw: Any) -> int:
    if not isinstance(raw, int) or isinstance(raw, bool) or raw < 0:
        raise ValueError(f"{raw!r} is not a number of leases")
    return raw


_NAMES: dict[str, type[Perm | ResourceType]] = {"perms": Perm, "kinds": ResourceType}
_LIMITS: dict[str, Callable[[Any], Any]] = {
    "perms": lambda raw: functools.reduce(operator.or_, (Perm[word.upper()] for word in _words(raw)), Perm(0)),
    "kinds": lambda raw: frozenset(ResourceType[word.upper()] for word in _words(raw)),
    "max_bytes": parse_size,
    "max_leases": _count,
    "max_ttl": parse_duration,
    "max_grace": parse_duration,
}


def _limits(table: Mapping[str, Any], base: Limits, where: str) -> Limits:
    values: dict[str, Any] = {}
    for key, raw in table.items():
        if key not in _LIMITS:
            raise ConfigError(f"{where}.{key}: no such key; there are {', '.join(_LIMITS)}")
        try:
            values[key] = _LIMITS[key](raw)
        except KeyError as e:
            names = ", ".join(name.lower() for name in _NAMES[key].__members__)
            raise ConfigError(f"{where}.{key}: {str(e.args[0]).lower()!r} is none of {names}") from None
        except (ValueError, TypeError) as e:
            raise ConfigError(f"{where}.{key}: {e}") from None
    return base._replace(**values)
