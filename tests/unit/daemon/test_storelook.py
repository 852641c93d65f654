"""daemon/storelook: what is gone is let go, what is back is taken in, and another in its place is left alone."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from descriptors import open_descriptors

from fabricbios.daemon import blockstores
from fabricbios.daemon.storelook import StoreLook
from fabricbios.hw import backing, standing
from fabricbios.hw.backing import GRANULE, Backing, open_backing
from fabricbios.hw.sysfs import Sysfs

SIZE = 2 * GRANULE
WORD = b"of a holder"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk"


@pytest.fixture
def store(path: Path) -> Iterator[Backing]:
    """A store with something on it that is not there at the moment."""
    path.write_bytes(WORD.ljust(SIZE, b"\0"))
    opened = open_backing(Sysfs(), str(path), None)
    path.rename(path.with_name("away"))
    opened.let_go(OSError(errno.ENXIO, "pulled", str(path)))
    yield opened
    opened.close()


def put_back(path: Path) -> None:
    path.with_name("away").rename(path)


def refused(look: Callable[[bool], None], is_suspect: bool = False) -> OSError:
    with pytest.raises(OSError, match=r"\w") as raised:
        look(is_suspect)
    return raised.value


def test_what_is_missing_says_so_at_each_look_and_to_whoever_uses_it(store: Backing, path: Path) -> None:
    look = StoreLook(store, str(path))
    for _ in range(2):
        assert refused(look.look).errno == errno.ENOENT
    with pytest.raises(OSError, match="No such file"):
        store.wipe(0, GRANULE, "zero")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pread(store.fd, 1, 0)
    assert look.absence is not None


def test_what_is_back_is_taken_in_under_the_same_numbers(store: Backing, path: Path) -> None:
    numbers, open_ = (store.fd, store.data_fd), open_descriptors()
    put_back(path)
    look = StoreLook(store, str(path))
    look.look(False)
    assert look.absence is None
    assert (store.fd, store.data_fd) == numbers
    assert open_descriptors() <= open_
    assert os.pread(store.fd, len(WORD), 0) == os.pread(store.data_fd, len(WORD), 0) == WORD
    store.wipe(0, GRANULE, "zero")
    assert not any(path.read_bytes())
    look.look(True)


def test_another_file_is_neither_opened_nor_locked(store: Backing, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(bytes(SIZE))
    monkeypatch.setattr("fabricbios.daemon.storelook.open_backing", lambda *_, **__: pytest.fail("it was opened"))
    look = StoreLook(store, str(path), force=True)
    assert "another store stands here" in str(refused(look.look))
    assert look.absence is not None
    assert "block_force" in str(look.absence)


def test_another_file_with_the_same_inode_is_another(
    store: Backing, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_back(path)
    store.generation = 7
    generation = [8]
    for module in (backing, standing):
        monkeypatch.setattr(module, "generation_of", lambda _: generation[0])
    assert "another file than" in str(refused(StoreLook(store, str(path)).look))
    generation[0] = 7
    StoreLook(store, str(path)).look(False)


def test_one_that_came_back_shorter_is_not_the_whole(store: Backing, path: Path) -> None:
    put_back(path)
    os.truncate(path, GRANULE)
    assert "less than" in str(refused(StoreLook(store, str(path)).look))
    os.truncate(path, SIZE)
    StoreLook(store, str(path)).look(False)


def test_one_that_somebody_else_has_by_now_stays_absent(
    store: Backing, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backing, "PATIENCE", 0.05)
    put_back(path)
    other = open_backing(Sysfs(), str(path), None)
    assert "locked by another process" in str(refused(StoreLook(store, str(path)).look))
    other.close()
    StoreLook(store, str(path)).look(False)


def test_one_that_is_known_by_its_slot_alone_wants_a_restart(
    store: Backing, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_back(path)
    monkeypatch.setattr(Backing, "is_known_anywhere", False)
    assert "may be another disk" in str(refused(StoreLook(store, str(path)).look))
    assert store.absence is not None


def test_one_that_cannot_be_read_is_let_go_only_if_it_is_suspect_and_back_when_it_can(
    store: Backing, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_back(path)
    look = StoreLook(store, str(path))
    look.look(False)
    with monkeypatch.context() as broken:
        broken.setattr(backing, "_read_past_cache", broken_at(range(SIZE)))
        look.look(False)
        assert refused(look.look, True).errno == errno.EIO
        assert "nothing can be read" in str(refused(look.look, True))
        assert store.absence is not None
    look.look(True)
    assert look.absence is None


def test_one_bad_place_is_no_reason(store: Backing, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_back(path)
    look = StoreLook(store, str(path))
    look.look(False)
    monkeypatch.setattr(backing, "_read_past_cache", broken_at(range(GRANULE)))
    look.look(True)


def broken_at(places: range) -> Callable[[int, int], None]:
    def read(_: int, base: int) -> None:
        if base in places:
            raise OSError(errno.EIO, "Input/output error")

    return read


def test_a_file_that_is_cut_short_is_kept_and_is_whole_again(path: Path) -> None:
    path.write_bytes(bytes(SIZE))
    store = open_backing(Sysfs(), str(path), None)
    look = StoreLook(store, str(path))
    os.truncate(path, GRANULE)
    assert "truncated" in str(refused(look.look))
    assert look.absence is None
    os.truncate(path, SIZE)
    look.look(False)
    store.close()


def test_what_opening_says_of_an_absent_store_is_absence() -> None:
    assert {errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.EIO} <= blockstores.ABSENCE
    assert not {errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.ENOSPC, errno.EMFILE} & blockstores.ABSENCE
