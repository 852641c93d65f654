"""The extent journal: durable before it is believed, whole or an error, and never two daemons on one."""

import errno
import os

import pytest

from fabricbios.dataplane import extent_journal
from fabricbios.dataplane.extent_journal import RECORD, SECTOR, ExtentJournal, Placed

STORE, OTHER = b"s" * 16, b"o" * 16
LEASE = 0xABCDEF << 90


@pytest.fixture
def path(tmp_path):
    return tmp_path / "extents"


def reopen(journal):
    journal.close()
    return ExtentJournal(journal.path)


def test_what_was_put_is_there_after_a_restart(path):
    journal = ExtentJournal(path)
    journal.put(LEASE, Placed(STORE, 1 << 20, 2 << 20))
    journal.put(LEASE + 1, Placed(STORE, 3 << 20, 1 << 20))
    journal.remove(LEASE + 1)
    journal.take_store(STORE)
    again = reopen(journal)
    assert (again.extents, again.stores) == ({LEASE: Placed(STORE, 1 << 20, 2 << 20)}, {STORE})


def test_putting_again_replaces_and_uses_no_second_record(path, monkeypatch):
    monkeypatch.setattr(extent_journal, "RECORDS", 4)
    journal = ExtentJournal(path)
    for base in range(extent_journal.RECORDS + 1):
        journal.put(LEASE, Placed(STORE, base, 1))
    assert reopen(journal).extents == {LEASE: Placed(STORE, extent_journal.RECORDS, 1)}


def test_removing_what_is_not_there_is_nothing(path):
    journal = ExtentJournal(path)
    journal.remove(LEASE)
    assert reopen(journal).extents == {}


def test_a_store_is_forgotten_when_it_is_neither_kept_nor_holds_anything(path):
    journal = ExtentJournal(path)
    for store in (STORE, OTHER, b"x" * 16):
        journal.take_store(store)
    journal.put(LEASE, Placed(OTHER, 0, 1))
    journal.drop_stores({STORE})
    assert reopen(journal).stores == {STORE, OTHER}


def test_how_much_of_a_store_is_clean_lasts_as_long_as_the_store(path):
    journal = ExtentJournal(path)
    journal.take_store(STORE)
    journal.set_clean(STORE, 5 << 20)
    journal = reopen(journal)
    assert journal.clean == {STORE: 5 << 20}
    journal.drop_stores(set())
    assert (journal.clean, reopen(journal).clean) == ({}, {})


def test_a_full_journal_is_enospc_and_unchanged(path, monkeypatch):
    monkeypatch.setattr(extent_journal, "RECORDS", 2)
    journal = ExtentJournal(path)
    journal.put(1, Placed(STORE, 0, 1))
    journal.put(2, Placed(STORE, 1, 1))
    with pytest.raises(OSError, match="holds 2 records") as caught:
        journal.put(3, Placed(STORE, 2, 1))
    assert caught.value.errno == errno.ENOSPC
    journal.remove(1)
    journal.put(3, Placed(STORE, 2, 1))
    assert set(reopen(journal).extents) == {2, 3}


@pytest.mark.parametrize("at", [0, 8, 12, 20, 40, 55, 60])
def test_rot_is_an_error_and_not_a_forgotten_extent(path, at):
    journal = ExtentJournal(path)
    journal.put(LEASE, Placed(STORE, 0, 1))
    journal.close()
    with path.open("r+b") as file:
        sector = next(n for n in range(extent_journal.RECORDS) if os.pread(file.fileno(), 8, n * SECTOR) != bytes(8))
        byte = os.pread(file.fileno(), 1, sector * SECTOR + at)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), sector * SECTOR + at)
    with pytest.raises(OSError, match="does not check") as caught:
        ExtentJournal(path)
    assert caught.value.errno == errno.EUCLEAN


def test_a_second_daemon_is_kept_out(path):
    ExtentJournal(path)
    with pytest.raises(BlockingIOError):
        ExtentJournal(path)


def test_a_write_that_fails_changes_nothing_that_is_believed(path, monkeypatch):
    journal = ExtentJournal(path)
    journal.put(1, Placed(STORE, 0, 1))

    def fail(_fd):
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(extent_journal.os, "fdatasync", fail)
    for change in (
        lambda: journal.put(2, Placed(STORE, 1, 1)),
        lambda: journal.remove(1),
        lambda: journal.take_store(OTHER),
    ):
        with pytest.raises(OSError, match="no"):
            change()
    assert (journal.extents, journal.stores) == ({1: Placed(STORE, 0, 1)}, set())


def test_a_record_fits_its_sector_and_is_private(path):
    ExtentJournal(path)
    assert RECORD.size <= SECTOR
    assert path.stat().st_mode & 0o777 == 0o600
