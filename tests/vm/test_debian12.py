"""The XDP programs on Debian 12's kernel 6.1, the oldest that we run on: its verifier is another than 6.12's."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fbmu_rig import read, write
from netns_rig import Inside, VethPair
from vectors.test_bpf_block import (  # noqa: F401 - collected again, here inside the machine
    test_a_lease_that_is_over_is_refused_here_where_nobody_has_the_socket,
    test_what_is_forged_is_dropped_and_the_rest_left_as_it_came,
    test_what_the_server_took_already_is_dropped_and_its_window_left_alone,
)
from vectors.test_bpf_fbmu import (  # noqa: F401 - likewise
    _fresh,
    rig,
    test_a_golden_bad_question_moves_no_byte,
    test_a_golden_question_draws_the_golden_answer,
)
from vectors.test_bpf_trace import TraceRig
from xdp_node import lease_id
from xdp_veth_rig import ask, bpffs_at, client, enter, in_child, pass_all, silent, started, xdp_pair

from fabricbios.dataplane.trace import ANY_LEASE
from fabricbios.dataplane.xdp_layout import CounterRecord
from fabricbios.dataplane.xdp_selftest import self_test
from fabricbios.model import DpAuth

pytestmark = pytest.mark.vm(kernel="6.1")


@pytest.fixture
def pair() -> Iterator[VethPair]:
    with xdp_pair() as made:
        yield made


@pytest.fixture
def here(pair: VethPair) -> Inside:
    inside = pair.inside(pair.here)
    pass_all(inside, pair.iface)
    return inside


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    with bpffs_at(tmp_path / "bpffs") as mount:
        yield mount


def test_it_is_debian_12s_own_kernel() -> None:
    assert os.uname().release.startswith("6.1.")
    assert "-cloud-" not in os.uname().release


def test_the_program_with_the_stopwatch_answers_and_counts() -> None:
    traced = TraceRig()
    try:
        traced.open()
        traced.trace.load()
        traced.trace.start(ANY_LEASE, 1 << 62)
        assert traced.ask(write(0, b"measured")) is not None
        answer = traced.ask(read(0, 8, 2, 8))
        assert answer is not None
        assert answer[64:] == b"measured"
        assert traced.counted() == {("FBMU", "WRITE", "ANSWERED"): 1, ("FBMU", "READ", "ANSWERED"): 1}
    finally:
        traced.close()


@pytest.mark.parametrize("mode", [CounterRecord.NATIVE, CounterRecord.GENERIC])
def test_a_daemon_finds_that_it_works(mode: CounterRecord) -> None:
    assert self_test(mode) == ""


def test_a_dead_daemons_leases_are_served_and_its_successor_adopts_them(
    pair: VethPair, here: Inside, bpffs: Path
) -> None:
    def die() -> None:
        enter(pair.there)
        started(bpffs, pair.iface)
        os.kill(os.getpid(), signal.SIGKILL)

    def succeed() -> None:
        enter(pair.there)
        path = started(bpffs, pair.iface)
        assert path.adopted
        assert path.counters()["xdp_native"]["requests"]["read"] == 2 * len(DpAuth)
        path.stop()

    assert os.WTERMSIG(in_child(die)) == signal.SIGKILL
    for auth in DpAuth:
        how = {"lease_id": lease_id(auth), "auth": auth}
        for nonce, address in ((1, f"{pair.V4}1"), (3, f"{pair.V6}1")):
            sock, data = client(here, address), os.urandom(1024)
            assert ask(sock, write(0, data, nonce, **how))[56:] == bytes(4)
            assert ask(sock, read(0, 1024, nonce + 1, 1020, **how))[64:] == data
            assert silent(sock, read(0, 1024, nonce + 1, 1020, **how))
    assert in_child(succeed) == 0
    assert not (bpffs / "fabricbios" / "test").exists()
