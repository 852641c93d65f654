"""kill -9 of the daemon between any two changes it makes to the target: its successor leaves nothing behind."""

from pathlib import Path

import pytest

from fabricbios.dataplane.nvmeof import STEPS
from vm.nvmeof_rig import Node, killed_after, lease_of, load_modules, node_at, nothing_left, tree

pytestmark = pytest.mark.vm

LEASE = lease_of(0xB2)
MOST_CHANGES = 64  # more than binding or teardown makes


@pytest.fixture(scope="module", autouse=True)
def _modules() -> None:
    load_modules()


def _bind(node: Node) -> object:
    return node.bind(LEASE)


def _unbind(node: Node) -> None:
    node.unbind(LEASE)


def test_killed_at_any_change_of_binding(tmp_path: Path) -> None:
    before = tree()
    for lives in range(MOST_CHANGES):
        killed = killed_after(lives, tmp_path, _bind)
        with node_at(tmp_path) as successor:
            successor.unbind(LEASE)
            assert successor.pool.leases() == set()
        assert tree() == before, f"killed at change {lives}"
        assert nothing_left()
        if not killed:
            break
    assert 10 < lives < MOST_CHANGES - 1


def test_killed_at_any_change_of_teardown(tmp_path: Path) -> None:
    before = tree()
    for lives in range(MOST_CHANGES):
        with node_at(tmp_path) as node:
            node.bind(LEASE)
        killed = killed_after(lives, tmp_path, _unbind)
        with node_at(tmp_path) as successor:
            successor.unbind(LEASE)
        assert tree() == before, f"killed at change {lives}"
        assert nothing_left()
        if not killed:
            break
    assert 5 < lives < MOST_CHANGES - 1


@pytest.mark.parametrize("done", range(1, len(STEPS) + 1))
def test_a_successor_without_a_journal_finds_the_orphan(tmp_path: Path, done: int) -> None:
    with node_at(tmp_path) as node:
        for step in STEPS[:done]:
            node.plane.do(step, LEASE)
    with node_at(tmp_path) as successor:
        for lease_id in successor.plane.orphans(set()) | successor.pool.leases():
            successor.plane.release(lease_id)
        assert successor.pool.leases() == set()
    assert nothing_left()
