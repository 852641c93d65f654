"""What stood at which path: kept over starts, and never mistaken."""

from pathlib import Path

import pytest

from fabricbios.daemon.storebook import BOOK, Known, StoreBook
from fabricbios.errors import ConfigError
from fabricbios.hw.standing import Standing

A, B, C = (Known(f"disk-{n}", bytes([n]) * 16, n << 20, True) for n in (1, 2, 3))


def book(root: Path, **stores: Known) -> StoreBook:
    made = StoreBook(root)
    made.keep(stores)
    return StoreBook(root)


def test_what_was_kept_is_read_again_and_what_was_not_is_forgotten(tmp_path: Path) -> None:
    kept = book(tmp_path, one=A, two=B)
    assert (kept.at("one"), kept.at("two"), kept.at("three")) == (A, B, None)
    assert kept.has(Standing("moved", B.identity, 0))
    assert not kept.has(Standing(C.name, C.identity, 0))
    assert book(tmp_path, two=B).at("one") is None


def test_another_file_that_got_the_same_inode_is_another(tmp_path: Path) -> None:
    kept = book(tmp_path, one=A._replace(generation=7))
    assert [kept.has(Standing(A.name, A.identity, generation)) for generation in (7, 8, 0)] == [True, False, True]


def test_nothing_is_written_where_nothing_is_new(tmp_path: Path) -> None:
    kept = book(tmp_path, one=A)
    before = (tmp_path / BOOK).stat().st_ino
    kept.keep({"one": A})
    assert (tmp_path / BOOK).stat().st_ino == before


def test_what_is_missing_at_a_path_is_what_stood_there(tmp_path: Path) -> None:
    kept = book(tmp_path, one=A, two=B)
    assert kept.missing("two", {A.identity: "one"}) == B
    assert kept.missing("never", {}) is None


def test_names_that_moved_up_are_followed_to_what_is_missing(tmp_path: Path) -> None:
    kept = book(tmp_path, sdb=A, sdc=B, sdd=C)
    assert kept.missing("sdd", {B.identity: "sdb", C.identity: "sdc"}) == A


def test_what_is_at_hand_is_not_missing(tmp_path: Path) -> None:
    assert book(tmp_path, one=A).missing("one", {A.identity: "one"}) is None


HEAD = '{"schema": "fabricbios.stores/1", "stores": {"one": '


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": "fabricbios.stores/2", "stores": {}}', HEAD + '{"name": "a"}}}',
     HEAD + '{"name": "a", "identity": "x", "size": 1, "is_device": true, "generation": 0}}}',
     HEAD + '{"name": "a", "identity": "00", "size": 0, "is_device": true, "generation": 0}}}'],
)  # fmt: skip
def test_a_damaged_one_stops_the_start_with_a_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / BOOK).write_text(text)
    with pytest.raises(ConfigError, match=rf"{tmp_path / BOOK}: damaged .* remove it"):
        StoreBook(tmp_path)
