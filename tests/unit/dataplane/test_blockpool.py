"""Extents of real files: never two leases on one byte, nothing granted unwiped, nothing lost in a crash."""

import errno
import os
import threading
from itertools import pairwise

import pytest
from effort import effort
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from fabricbios.dataplane import blockpool
from fabricbios.dataplane.blockpool import BlockPool
from fabricbios.dataplane.extent_journal import ExtentJournal, Placed
from fabricbios.errors import LocalMisuse
from fabricbios.hw.backing import GRANULE, open_backing
from fabricbios.hw.sysfs import Sysfs

FS = Sysfs("/nonexistent")
A, B = 0xA, 0xB  # resource ids


class Node:
    """A pool that can be killed and started again."""

    def __init__(self, root, sizes, wipe="zero"):
        self.root, self.sizes, self.wipe = root, sizes, wipe
        self.start()

    def start(self):
        self.journal = ExtentJournal(self.root / "extents")
        self.stores = {  # kept also where the pool refuses them: stop() closes what is open, each once
            resource: open_backing(FS, str(self.root / f"store-{resource}"), size, ours=self.journal.stores)
            for resource, size in self.sizes.items()
        }
        self.pool = BlockPool(self.stores, self.journal, self.wipe)

    def stop(self):
        self.journal.close()
        for store in self.stores.values():
            store.close()

    def restart(self):
        self.stop()
        self.start()


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path, {A: 4 * GRANULE, B: 2 * GRANULE})
    yield made
    made.stop()


def fill(region, byte=b"\xaa"):
    os.pwrite(region.backing.fd, byte * region.length, region.base)


def failing(code, why):
    def fail(*_):
        raise OSError(code, why)

    return fail


def content(region):
    return os.pread(region.backing.fd, region.length, region.base)


def test_a_lease_gets_whole_granules_of_the_resource_it_asked_for(node):
    region = node.pool.place(1, B, GRANULE + 1)
    assert (region.device, region.base, region.length) == (1, 0, 2 * GRANULE)
    assert (node.pool.available(A), node.pool.available(B)) == (4 * GRANULE, 0)


def test_asking_again_gives_the_same(node):
    assert node.pool.place(1, A, GRANULE) == node.pool.place(1, A, GRANULE) == node.pool.find(1)


def test_two_leases_that_ask_for_the_last_extent(node):
    won, lost, start = [], [], threading.Barrier(2)

    def ask(lease_id):
        start.wait()
        try:
            won.append(node.pool.place(lease_id, B, 2 * GRANULE))
        except OSError as error:
            lost.append(error.errno)

    threads = [threading.Thread(target=ask, args=(lease_id,)) for lease_id in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert lost == [errno.ENOSPC]


def test_no_such_resource(node):
    with pytest.raises(OSError, match="no such block resource"):
        node.pool.place(1, 0xC, GRANULE)


def test_what_was_written_cannot_be_read_by_the_next_holder(node):
    for lease_id in range(1, 20):
        region = node.pool.place(lease_id, A, 4 * GRANULE)
        assert not any(content(region))
        fill(region)
        node.pool.release(lease_id)


@pytest.fixture
def used(tmp_path):
    """A node over a file that was its admin's before."""
    (tmp_path / f"store-{A}").write_bytes(b"\x5a" * 4 * GRANULE)
    made = Node(tmp_path, {A: 4 * GRANULE})
    yield made
    made.stop()


def test_nor_can_what_stood_there_before_anybody_leased_it(used):
    assert not any(content(used.pool.place(1, A, GRANULE)))
    used.restart()
    assert not any(content(used.pool.place(2, A, 2 * GRANULE)))
    assert os.pread(used.pool.backings[0].fd, GRANULE, 3 * GRANULE) == b"\x5a" * GRANULE, "not leased yet, so not wiped"


def test_what_was_wiped_once_is_not_wiped_again(used, monkeypatch):
    used.pool.place(1, A, 2 * GRANULE)
    used.pool.release(1)
    used.restart()
    wiped = []
    monkeypatch.setattr(used.pool.backings[0], "wipe", lambda base, length, how: wiped.append((base, length)))
    used.pool.place(2, A, 3 * GRANULE)
    assert wiped == [(2 * GRANULE, GRANULE)]


def test_asking_again_wipes_nothing_that_is_leased(used, monkeypatch):
    monkeypatch.setattr(used.journal, "set_clean", lambda *_: None)  # as one that a crash came before
    fill(used.pool.place(1, A, GRANULE))
    assert content(used.pool.place(1, A, GRANULE)) == b"\xaa" * GRANULE


def test_a_store_that_takes_long_to_wipe_is_busy_and_gets_there(used, monkeypatch):
    monkeypatch.setattr(blockpool, "FIRST_WIPE_SECONDS", 0)
    with pytest.raises(OSError, match="ask again") as caught:
        used.pool.place(1, A, GRANULE)
    assert (caught.value.errno, used.pool.leases()) == (errno.EBUSY, set())
    monkeypatch.setattr(used.pool.backings[0], "zero", lambda base, end, seconds: base + GRANULE)
    with pytest.raises(OSError, match=f"up to byte {GRANULE}"):
        used.pool.place(1, A, 2 * GRANULE)
    assert used.pool.place(1, A, 2 * GRANULE).length == 2 * GRANULE


def test_under_none_nothing_is_wiped_and_that_is_remembered(used):
    used.pool.place(1, A, 2 * GRANULE)
    used.pool.release(1)
    used.wipe = "none"
    used.restart()
    fill(used.pool.place(2, A, 2 * GRANULE))
    used.pool.release(2)
    assert content(used.pool.place(3, A, 2 * GRANULE)) == b"\xaa" * 2 * GRANULE
    used.pool.release(3)
    used.wipe = "zero"
    used.restart()
    assert not any(content(used.pool.place(4, A, 2 * GRANULE))), "from now on nobody reads what none left behind"


def test_nor_after_a_crash_at_any_point(node):
    fill(node.pool.place(1, A, 4 * GRANULE))
    node.restart()  # killed with the lease live
    with pytest.raises(OSError, match="in one piece"):
        node.pool.place(2, A, GRANULE)
    assert node.pool.leases() == {1}
    node.pool.release(1)
    assert not any(content(node.pool.place(2, A, 4 * GRANULE)))


def test_a_wipe_that_fails_keeps_the_extent(node, monkeypatch):
    fill(node.pool.place(1, A, 4 * GRANULE))
    monkeypatch.setattr(
        node.pool.backings[0], "wipe", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken disk"))
    )
    with pytest.raises(OSError, match="broken disk"):
        node.pool.release(1)
    with pytest.raises(OSError, match="in one piece"):
        node.pool.place(2, A, GRANULE)
    monkeypatch.undo()
    node.pool.release(1)
    assert node.pool.available(A) == 4 * GRANULE


def test_a_journal_that_cannot_be_written_grants_nothing(node, monkeypatch):
    monkeypatch.setattr(node.journal, "put", failing(errno.EIO, "no"))
    with pytest.raises(OSError, match="no"):
        node.pool.place(1, A, GRANULE)
    assert (node.pool.available(A), node.pool.find(1)) == (4 * GRANULE, None)


def test_no_room_in_the_file_system_grants_nothing(node, monkeypatch):
    monkeypatch.setattr(node.pool.backings[0], "reserve", failing(errno.ENOSPC, "cannot reserve the space"))
    with pytest.raises(OSError, match="cannot reserve"):
        node.pool.place(1, A, GRANULE)
    assert (node.pool.available(A), node.pool.leases()) == (4 * GRANULE, set())
    node.restart()
    assert node.pool.leases() == set()


def test_a_truncated_file_cannot_be_released_and_stays_held(node):
    node.pool.place(1, A, GRANULE)
    os.truncate(node.root / f"store-{A}", GRANULE)
    with pytest.raises(OSError, match="truncated"):
        node.pool.release(1)
    assert node.pool.leases() == {1}


def test_releasing_twice_or_what_never_was_is_nothing(node):
    node.pool.place(1, A, GRANULE)
    node.pool.release(1)
    node.pool.release(1)
    node.pool.release(99)
    assert node.pool.available(A) == 4 * GRANULE


def test_a_store_that_is_configured_no_more_keeps_its_leases_in_the_journal(node):
    fill(node.pool.place(1, B, GRANULE))
    node.sizes = {A: 4 * GRANULE}
    node.restart()
    with pytest.raises(OSError, match="not configured any more"):
        node.pool.release(1)
    node.sizes = {A: 4 * GRANULE, B: 2 * GRANULE}
    node.restart()
    node.pool.release(1)
    assert not any(content(node.pool.place(2, B, 2 * GRANULE)))


def test_a_journal_that_contradicts_itself_is_an_error(node):
    identity = node.pool.backings[0].identity
    node.journal.put(1, Placed(identity, 0, GRANULE))
    node.journal.put(2, Placed(identity, 0, GRANULE))
    node.stop()
    with pytest.raises(LocalMisuse, match="not free"):
        node.start()
    node.journal.remove(2)
    node.restart()


class PoolMachine(RuleBasedStateMachine):
    """Random leases, ends, crashes and refused reservations against a model that is a dict."""

    root = None

    @initialize()
    def begin(self):
        self.node = Node(self.root(), {A: 16 * GRANULE, B: 5 * GRANULE})
        self.model = {}

    @rule(lease_id=st.integers(1, 12), resource=st.sampled_from([A, B]), size=st.integers(1, 6 * GRANULE))
    def place(self, lease_id, resource, size):
        if lease_id in self.model:
            return
        granules = -(-size // GRANULE)
        if self.largest_gap(resource) < granules:
            with pytest.raises(OSError, match="in one piece"):
                self.node.pool.place(lease_id, resource, size)
            return
        region = self.node.pool.place(lease_id, resource, size)
        assert region.length == granules * GRANULE
        assert not any(content(region)), "an earlier holder's bytes"
        os.pwrite(region.backing.fd, b"\xaa" * 512, region.base)
        os.pwrite(region.backing.fd, b"\xaa" * 512, region.base + region.length - 512)
        self.model[lease_id] = (resource, region.base, region.length)

    @rule(lease_id=st.integers(1, 12))
    def release(self, lease_id):
        self.node.pool.release(lease_id)
        self.model.pop(lease_id, None)

    @rule()
    def crash(self):
        self.node.restart()

    def largest_gap(self, resource):
        taken = sorted((base, base + length) for r, base, length in self.model.values() if r == resource)
        edges = [(0, 0), *taken, (self.node.sizes[resource],) * 2]
        return max(b[0] - a[1] for a, b in pairwise(edges)) // GRANULE

    @invariant()
    def agrees_with_the_model(self):
        pool = self.node.pool
        assert pool.leases() == set(self.model)
        for lease_id, (resource, base, length) in self.model.items():
            region = pool.find(lease_id)
            assert (region.device, region.base, region.length) == ([A, B].index(resource), base, length)
            assert base % GRANULE == 0
            assert base + length <= self.node.sizes[resource]
        for resource, size in self.node.sizes.items():
            spans = sorted((b, b + n) for r, b, n in self.model.values() if r == resource)
            assert all(a[1] <= b[0] for a, b in pairwise(spans)), "two leases on one byte"
            assert pool.available(resource) == size - sum(b - a for a, b in spans)

    def teardown(self):
        for lease_id in list(self.model):
            self.node.pool.release(lease_id)
        assert self.node.pool.place(99, A, 16 * GRANULE).base == 0, "gaps do not merge"
        self.node.stop()


def test_any_history_keeps_the_pool_sound(tmp_path_factory):
    class Machine(PoolMachine):
        root = staticmethod(lambda: tmp_path_factory.mktemp("pool"))

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=effort(quick=6, full=12), stateful_step_count=25, deadline=None)
    )
