"""`fabricbios nodes` and `fabricbiosd solicit`, against a relay and a node on loopback."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
from click.testing import CliRunner, Result
from discovery_rig import facts, key, node_id, store

from fabricbios.cli.main import cli
from fabricbios.core.discovery import Discovery
from fabricbios.core.relay import Relay
from fabricbios.daemon.discovery import DiscoveryService
from fabricbios.daemon.solicit import Endpoint, solicit_command
from fabricbios.errors import TimedOut
from fabricbios.model import hex128

SCHEMA = json.loads((Path(__file__).parents[3] / "docs/schema/nodes.json").read_text())


@pytest.fixture(scope="module")
def relay() -> Iterator[str]:
    """A relay that has heard one node; yields HOST:PORT. Both live in a thread."""
    ready, leave, where = threading.Event(), threading.Event(), []

    async def live() -> None:
        hears = DiscoveryService(Relay(1, store(), rng=os.urandom), bind=("127.0.0.1",), port=0)
        await hears.start()
        node = Discovery(key(1), facts(), rng=os.urandom)
        says = DiscoveryService(node, bind=("127.0.0.1",), port=0, relays=(hears.address,))
        await says.start()
        while not hears.counts["announce", "accepted"]:
            await asyncio.sleep(0.01)
        where.append("{}:{}".format(*hears.address))
        ready.set()
        await asyncio.to_thread(leave.wait)
        await says.stop()
        await hears.stop()

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    assert ready.wait(60)
    yield where[0]
    leave.set()
    thread.join()


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False)


def listed(output: str) -> list[dict[str, Any]]:
    document = json.loads(output)
    jsonschema.validate(document, SCHEMA)
    nodes: list[dict[str, Any]] = document["nodes"]
    return nodes


def test_people_see_a_table(relay: str) -> None:
    shown = run("nodes", "--relay", relay).output
    for cell in ("192.0.2.1:5701", "mem 1 GiB of 1 GiB", "ok", "yes", hex128(node_id(key(1)))[:14]):
        assert cell in shown


def test_scripts_get_a_document(relay: str) -> None:
    (node,) = listed(run("nodes", "--relay", relay, "--json").output)
    assert node["node_id"] == hex128(node_id(key(1)))
    assert node["verified"] is True
    assert node["source"] == relay


def test_the_daemon_asks_the_same_question(relay: str) -> None:
    runner = CliRunner()
    (node,) = listed(runner.invoke(solicit_command, ["--relay", relay, "--json"], standalone_mode=False).output)
    assert node["node_id"] == hex128(node_id(key(1)))
    line = runner.invoke(solicit_command, ["--relay", relay], standalone_mode=False).output
    assert line.split()[1:] == ["192.0.2.1:5701", "ok", "mem=1073741824/1073741824", "verified"]


@pytest.mark.parametrize(("kinds", "count"), [(["mem"], 1), (["gpu"], 0), (["gpu", "mem"], 1)])
def test_types_choose(relay: str, kinds: list[str], count: int) -> None:
    words = [w for kind in kinds for w in ("--type", kind)]
    assert len(listed(run("nodes", "--relay", relay, "--json", *words).output)) == count


def test_nobody_there() -> None:
    with pytest.raises(TimedOut, match=r"127\.0\.0\.1:9"):
        run("nodes", "--relay", "127.0.0.1:9", "--timeout", "0.1")
    words = ["--relay", "127.0.0.1:9", "--timeout", "0.1"]
    failed = CliRunner().invoke(solicit_command, words, standalone_mode=False)
    assert failed.return_value == 4
    assert failed.stderr.count("\n") == 1
    assert CliRunner().invoke(solicit_command, []).exit_code == 2


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("relay", ("relay", 5700)),
        ("relay:1", ("relay", 1)),
        ("::1", ("::1", 5700)),
        ("[::1]", ("::1", 5700)),
        ("[::1]:2", ("::1", 2)),
    ],
)
def test_endpoints(text: str, endpoint: tuple[str, int]) -> None:
    assert Endpoint().convert(text, None, None) == endpoint


def test_a_link_that_is_not_there_is_named() -> None:
    told = "'nosuch0': no such interface"
    with pytest.raises(click.UsageError, match=told):
        run("nodes", "--iface", "nosuch0")
    with pytest.raises(click.UsageError, match=told):
        CliRunner().invoke(
            solicit_command, ["--discovery-iface", "nosuch0"], standalone_mode=False, catch_exceptions=False
        )
