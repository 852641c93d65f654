"""Kill a daemon between each two things that it does to the kernel: its successor adopts or removes what is left.

A child process starts or stops an XdpPath with the calls that leave traces counted, and dies by SIGKILL before the
n-th. The parent then starts where the child died, finds a whole path, stops it, and finds nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from netns_rig import VethPair, ip
from xdp_veth_rig import bpffs_at, enter, in_child, started, xdp_pair

from fabricbios.hw import bpf

pytestmark = pytest.mark.netns
TRACES = {bpf.Cmd.OBJ_PIN, bpf.Cmd.LINK_CREATE, bpf.Cmd.LINK_UPDATE}
ENOUGH = 100


@pytest.fixture
def pair() -> Iterator[VethPair]:
    with xdp_pair("4") as made:
        yield made


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    with bpffs_at(tmp_path / "bpffs") as mount:
        yield mount


def die_before(nth: int) -> None:
    """From now on count what leaves a trace, in this process, and die before the n-th."""
    left = [nth]

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return work(*args, **kwargs)

        return call

    system_call = bpf.bpf
    traced = counted(system_call)
    bpf.bpf = lambda cmd, attr: traced(cmd, attr) if cmd in TRACES else system_call(cmd, attr)
    for module, name in ((os, "rename"), (os, "unlink"), (os, "rmdir"), (os, "mkdir"), (shutil, "rmtree")):
        setattr(module, name, counted(getattr(module, name)))


def test_killed_anywhere_in_a_start(pair: VethPair, bpffs: Path) -> None:
    def run(nth: int) -> None:
        enter(pair.there)
        die_before(nth)
        started(bpffs, pair.iface).release()

    every_death_is_survived(pair, bpffs, run)


def test_killed_anywhere_in_a_stop(pair: VethPair, bpffs: Path) -> None:
    def run(nth: int) -> None:
        enter(pair.there)
        path = started(bpffs, pair.iface)
        die_before(nth)
        path.stop()

    every_death_is_survived(pair, bpffs, run)


def every_death_is_survived(pair: VethPair, bpffs: Path, run: Callable[[int], None]) -> None:
    def succeed() -> None:
        enter(pair.there)
        started(bpffs, pair.iface).stop()

    for nth in range(1, ENOUGH):
        status = in_child(lambda nth=nth: run(nth))
        assert in_child(succeed) == 0, nth
        assert not (bpffs / "fabricbios" / "test").exists(), nth
        shown = subprocess.run(
            ["ip", "-n", pair.there, "link", "show", pair.iface], capture_output=True, text=True, check=True
        )
        assert "xdp" not in shown.stdout, nth
        if status == 0:
            assert nth > 3
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
    pytest.fail("the work never ends")


def test_an_interface_that_went_away_while_the_daemon_was_dead(pair: VethPair, bpffs: Path) -> None:
    def leave() -> None:
        enter(pair.there)
        started(bpffs, pair.iface).release()

    assert in_child(leave) == 0
    ip("-n", pair.there, "link", "del", pair.iface)
    ip("-n", pair.there, "link", "add", pair.iface, "type", "veth", "peer", "name", "other")

    def succeed() -> None:
        enter(pair.there)
        started(bpffs, pair.iface).stop()

    assert in_child(succeed) == 0
    assert not (bpffs / "fabricbios" / "test").exists()
