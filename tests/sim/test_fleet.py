"""Many nodes, clients and a relay under one clock; the invariants are checked inside, after everything that happens.

FABRICBIOS_SIM_SEEDS runs more seeds, FABRICBIOS_SIM_FIRST starts elsewhere.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from fabricbios.daemon.simulate import simulate
from fabricbios.simulation import Broken, Fleet, Settings, Summary
from fabricbios.simulation.machine import Machine
from fabricbios.simulation.network import Network
from fabricbios.testing import FakeDataPlane

pytestmark = pytest.mark.sim
FIRST = int(os.environ.get("FABRICBIOS_SIM_FIRST", "0"))
SEEDS = min(int(os.environ.get("FABRICBIOS_SIM_SEEDS", "2")), 10_000)
HARD = Settings(nodes=3, seconds=40, loss=0.15, failures=0.1)
SCHEMA = json.loads((Path(__file__).parents[2] / "docs/schema/simulation.json").read_text())


def play(**changes: float) -> Summary:
    return Fleet(HARD._replace(**changes)).run()


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_no_luck_is_bad_enough(seed: int) -> None:
    summary = play(seed=seed)
    assert summary.leases["granted"] > 10
    assert summary.wire["lost"] > 50


def test_luck_reaches_the_dark_corners() -> None:
    """A simulator in which nothing goes wrong proves nothing."""
    told = play(seed=12, seconds=90)
    assert all(told.leases.values()), told.leases
    assert all(told.crashes.values()), told.crashes
    assert all(told.wire.values()), told.wire


def test_without_bad_luck_nothing_is_lost_and_every_node_is_found_at_once() -> None:
    told = play(seed=3, loss=0.0, failures=0.0)
    assert told.wire["lost"] == told.crashes["reboots"] == told.leases["fenced"] == 0
    assert told.crashes["kills"] == HARD.nodes, "of each the last, with which it comes to rest"
    assert 0 < told.discovery["worst_secs"] < 2


def test_one_seed_replays_bit_for_bit_whatever_hashes_are_seeded_with() -> None:
    """Two processes with hashes of their own; another seed is another story."""
    words = [sys.executable, "-m", "fabricbios.daemon", "simulate", "--nodes", "1", "--seconds", "10", "--json"]

    def run(seed: int, hashes: str) -> dict:
        environment = {**os.environ, "PYTHONHASHSEED": hashes}
        done = subprocess.run([*words, "--seed", str(seed)], capture_output=True, env=environment, check=True)
        return json.loads(done.stdout)

    first = run(7, "1")
    jsonschema.validate(first, SCHEMA)
    assert first == run(7, "2")
    assert first["digest"] != run(8, "1")["digest"]


def test_a_data_path_that_lets_in_too_long_is_found_and_told_how_to_see_again(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FakeDataPlane.renew

    def too_long(plane: FakeDataPlane, lease) -> None:
        whole(plane, lease)
        plane.held[lease.lease_id].expires_ns += 1

    monkeypatch.setattr(FakeDataPlane, "renew", too_long)
    with pytest.raises(Broken, match="for longer than was recorded"):
        play(seed=1)
    result = CliRunner().invoke(simulate, ["--seed", "1"], standalone_mode=False)
    assert result.return_value == 1
    assert "replay it with simulate" in result.stderr


def test_bytes_that_are_not_given_back_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FakeDataPlane.undo
    monkeypatch.setattr(FakeDataPlane, "undo", lambda plane, step, lease: step == "open" and whole(plane, step, lease))
    with pytest.raises(Broken, match="held for a lease that is over"):
        play(seed=1)


def test_a_node_that_is_killed_answers_nobody() -> None:
    fleet = Fleet(HARD)
    machine: Machine = next(iter(fleet.machines.values()))
    machine.start()
    fleet.schedule.run(1)
    machine.crash(reboot=False)
    heard: list[bytes | None] = []
    network: Network = fleet.network
    network.ask(network.connect(fleet.tenants[0], machine), b"anybody?", heard.append)
    fleet.schedule.run(10)
    assert heard == [None]
