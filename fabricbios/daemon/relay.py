"""`fabricbiosd relay`: hears what nodes announce and tells who asks. Keeps nothing but its key on disk."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fabricbios.core.relay import MAX_NODES, Relay
from fabricbios.core.trust import TrustMode, TrustStore
from fabricbios.daemon import log, ready
from fabricbios.daemon.clock import now
from fabricbios.daemon.discovery import DiscoveryService
from fabricbios.daemon.settings import BY_KEY
from fabricbios.daemon.statedir import StateDir
from fabricbios.ports import TrustedKeys
from fabricbios.transport import trustdir
from fabricbios.transport.identity import Identity

STATE_DIR = "/var/lib/fabricbios-relay"  # not the node's: both may run on one machine
_log = logging.getLogger(__name__)


async def run_relay(
    *,
    bind: tuple[str, ...],
    discovery_port: int,
    discovery_iface: tuple[str, ...],
    state_dir: Path,
    trust: str,
    trust_dir: Path,
    max_nodes: int,
    say: Callable[[str], None] = print,
) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the trust directory again. `say` gets the ready line.

    Raises ConfigError or AlreadyRunning before anything is served.
    """
    state = StateDir(state_dir)
    state.acquire()
    try:
        identity = Identity.load_or_create(state_dir)
        store = TrustStore(TrustMode(trust), read_trust(trust_dir))
        core = Relay(identity.node_id, store, max_nodes=max_nodes, rng=os.urandom)
        service = DiscoveryService(core, bind=bind, port=discovery_port, ifaces=discovery_iface)
        stopped = _listen_to_signals(lambda: _reload(store, core, trust_dir))
        await service.start()
        try:
            say(ready.line(identity.node_id, store.claimed, {"discovery": service.address}, {}))
            ready.notify("READY=1")
            await stopped.wait()
        finally:
            await service.stop()
    finally:
        state.release()


def _reload(store: TrustStore, core: Relay, trust_dir: Path) -> None:
    try:
        keys = read_trust(trust_dir)
    except OSError as error:
        _log.error("reload: %s; going on as before", error)
        return
    store.reload(keys)
    core.trust_changed(now())


def read_trust(trust_dir: Path, learned: Path | None = None) -> TrustedKeys:
    """Return the trusted keys; every file that could not be read is an error in the log."""
    keys = trustdir.load(trust_dir, learned)
    for complaint in keys.broken:
        _log.error("trust: %s: trusts nobody until it is mended or removed", complaint)
    return keys


def _listen_to_signals(reload: Callable[[], None]) -> asyncio.Event:
    """Return what is set by SIGTERM or SIGINT. Before the ready line: who reads that may send one at once."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, reload)
    return stopped


def _parsed(context: click.Context, param: click.Parameter, value: Any) -> Any:
    setting = BY_KEY[param.name or ""]
    try:
        return tuple(setting.parse(v) for v in value) if setting.many else setting.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, param) from None


def _setting(key: str, default: Any = None) -> Callable[[Any], Any]:
    """Return the click option of a node's setting, with its parser, help and default."""
    s = BY_KEY[key]
    return click.option(
        f"--{s.name}",
        multiple=s.many,
        default=s.default if default is None else default,
        show_default=True,
        metavar=s.metavar,
        help=s.help,
        callback=_parsed,
    )


@click.command()
@_setting("bind")
@_setting("discovery_port")
@_setting("discovery_iface")
@_setting("state_dir", STATE_DIR)
@_setting("trust")
@_setting("trust_dir")
@_setting("log_format")
@click.option("--max-nodes", type=click.IntRange(1, 1_000_000), default=MAX_NODES, show_default=True)
def relay(log_format: str, state_dir: str, trust_dir: str, **settings: Any) -> None:
    """Collect announcements and answer who asks for nodes. Prints one line `ready {json}` once it serves."""
    log.set_up(log_format)

    def say(line: str) -> None:
        click.echo(line)
        sys.stdout.flush()

    asyncio.run(run_relay(state_dir=Path(state_dir), trust_dir=Path(trust_dir), say=say, **settings))
