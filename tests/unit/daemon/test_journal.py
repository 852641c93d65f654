import json
import logging
import os
import threading
from pathlib import Path

import pytest

from fabricbios.daemon.journal import Journal, _text
from fabricbios.errors import ConfigError


def reopened(path):
    journal = Journal(path)
    entries = journal.open()
    journal.close()
    return entries


@pytest.fixture
def path(tmp_path):
    journal = Journal(tmp_path / "journal")
    assert journal.open() == []
    for n in range(3):
        journal.append([{"n": n}], durable=n == 1)
    journal.close()
    return tmp_path / "journal"


def test_what_was_written_is_read_again(path):
    assert reopened(path) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert path.stat().st_mode & 0o777 == 0o600


def test_every_torn_tail_is_cut_off_and_writing_goes_on(path):
    whole = path.read_bytes()
    second = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    for cut in range(second, len(whole)):
        path.write_bytes(whole[:cut])
        journal = Journal(path)
        assert journal.open() == [{"n": 0}, {"n": 1}]
        journal.append([{"again": 1}], durable=False)
        journal.close()
        assert reopened(path) == [{"n": 0}, {"n": 1}, {"again": 1}]


def test_a_damaged_middle_stops_the_start(path):
    whole = bytearray(path.read_bytes())
    whole[12] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ConfigError, match=r"damaged at byte 0: move it and token\.key elsewhere") as refused:
        reopened(path)
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == whole  # nothing is touched before a person decides


def zeros(data: bytes, start: int, length: int) -> bytes:
    return data[:start] + bytes(length) + data[start + length :]


@pytest.mark.parametrize("size", [1, 511, 512, 5000])
def test_zeros_at_the_end_are_cut_off(path: Path, caplog: pytest.LogCaptureFixture, size: int) -> None:
    path.write_bytes(path.read_bytes() + bytes(size))
    with caplog.at_level(logging.WARNING, "fabricbios.journal"):
        assert reopened(path) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert f"{size} bytes at its end were not whole" in caplog.text
    caplog.clear()
    assert reopened(path) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert not caplog.text


@pytest.mark.parametrize("sectors", [1, 2, 9])
def test_from_a_hole_on_nothing_was_promised(path: Path, sectors: int) -> None:
    """A page that never reached the disk, although a later one did: no fdatasync came between."""
    journal = Journal(path)
    journal.open()
    for n in range(3, 600):
        journal.append([{"n": n}], durable=False)
    journal.close()
    path.write_bytes(zeros(path.read_bytes(), 1024, 512 * sectors))
    entries = reopened(path)
    assert entries == [{"n": n} for n in range(len(entries))]
    assert 1024 - 20 < path.stat().st_size <= 1024
    assert reopened(path) == entries


def test_a_few_zeros_before_whole_lines_are_damage(path: Path) -> None:
    path.write_bytes(zeros(path.read_bytes(), 3, 20))
    with pytest.raises(ConfigError, match="damaged at byte 0"):
        reopened(path)


def test_a_hole_hides_no_damage_before_it(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"n":0', b'"n":5') + bytes(512))
    with pytest.raises(ConfigError, match="damaged at byte 0"):
        reopened(path)


def test_several_bad_lines_at_the_end_are_a_torn_end(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"what lay there\nbefore\n\n")
    assert reopened(path) == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_line_that_could_not_be_written_leaves_no_trace(path, monkeypatch):
    journal = Journal(path)
    journal.open()
    before = path.read_bytes()
    real = os.write
    monkeypatch.setattr("fabricbios.daemon.journal.os.write", lambda fd, data: real(fd, data[:5]))
    with pytest.raises(OSError, match="out of space"):
        journal.append([{"n": 9}], durable=True)
    monkeypatch.undo()
    assert path.read_bytes() == before
    journal.close()


def test_compaction_keeps_just_what_lives(path):
    journal = Journal(path)
    journal.open()
    journal.compact([{"n": 2}])
    journal.append([{"n": 3}], durable=False)
    journal.close()
    assert reopened(path) == [{"n": 2}, {"n": 3}]


def test_several_entries_are_written_all_or_none(path, monkeypatch):
    journal = Journal(path)
    journal.open()
    journal.append([{"n": 3}, {"n": 4}], durable=False)
    before = path.read_bytes()
    real = os.write
    monkeypatch.setattr("fabricbios.daemon.journal.os.write", lambda fd, data: real(fd, data[: len(data) - 3]))
    with pytest.raises(OSError, match="out of space"):
        journal.append([{"n": 5}, {"n": 6}], durable=False)
    monkeypatch.undo()
    assert path.read_bytes() == before
    journal.close()
    assert reopened(path)[3:] == [{"n": 3}, {"n": 4}]


@pytest.mark.parametrize("another", [False, True])
def test_a_line_the_disk_did_not_take_goes_unless_others_follow_it(path, monkeypatch, another):
    journal = Journal(path)
    journal.open()

    def fails(fd):
        if another:
            journal.append([{"n": 4}], durable=False)
        raise OSError(5, "the disk is gone")

    monkeypatch.setattr("fabricbios.daemon.journal.os.fdatasync", fails)
    with pytest.raises(OSError, match="gone"):
        journal.append([{"n": 3}], durable=True)
    monkeypatch.undo()
    journal.close()
    assert reopened(path)[3:] == ([{"n": 3}, {"n": 4}] if another else [])


def test_what_is_written_after_a_compaction_that_half_failed_is_found(path, monkeypatch):
    def fail(directory):
        raise OSError(5, "the directory cannot be synced")

    monkeypatch.setattr("fabricbios.daemon.journal._sync_directory", fail)
    journal = Journal(path)
    journal.open()
    with pytest.raises(OSError, match="synced"):
        journal.compact([{"kept": 1}])
    journal.append([{"after": 1}], durable=True)
    journal.close()
    assert reopened(path) == [{"kept": 1}, {"after": 1}]


def test_a_disk_that_fails_takes_nothing_from_the_file_that_replaced_it(path, monkeypatch):
    journal = Journal(path)
    journal.open()

    def fails(fd):
        journal.compact([{"kept": 1}])
        journal.append([{"after": 2}], durable=False)
        raise OSError(5, "the disk is gone")

    monkeypatch.setattr("fabricbios.daemon.journal.os.fdatasync", fails)
    with pytest.raises(OSError, match="gone"):
        journal.append([{"n": 3}], durable=True)
    monkeypatch.undo()
    journal.close()
    assert reopened(path) == [{"kept": 1}, {"after": 2}]


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_that_is_written_to_is_replaced_afterwards(path, monkeypatch, durable):
    """Its number would be another file's a moment later."""
    journal = Journal(path)
    journal.open()
    compaction = threading.Thread(target=journal.compact, args=([{"kept": 1}],))
    real, written = os.write, []

    def write(fd, data):
        if not compaction.ident:
            compaction.start()
            compaction.join(0.2)
            assert os.path.sameopenfile(fd, journal._fd)
        written.append(os.fstat(fd).st_ino)
        return real(fd, data)

    before = path.stat().st_ino
    monkeypatch.setattr("fabricbios.daemon.journal.os.write", write)
    journal.append([{"n": 3}], durable)
    compaction.join()
    assert before in written
    journal.close()
    assert reopened(path) == [{"kept": 1}]


def test_a_compaction_that_failed_leaves_the_file_and_is_not_tried_at_every_turn(path, monkeypatch):
    monkeypatch.setattr("fabricbios.daemon.journal._COMPACT_AFTER", 2)
    journal = Journal(path)
    journal.open()
    assert journal.wants_compaction
    (path.with_suffix(".new")).mkdir()
    with pytest.raises(OSError, match="new"):
        journal.compact([{"kept": 1}])
    assert not journal.wants_compaction
    journal.append([{"n": 3}], durable=False)
    journal.close()
    assert reopened(path) == [{"n": n} for n in range(4)]


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"a": 1, 'q"\\': 'quoted "\\\n\x00 \u00e9\u20ac'},
        {"plan": ["one", "two"], "none": [], "deep": {"x": [True, None, -1.5]}},
    ],
)
def test_a_line_is_json_as_json_writes_it(entry):
    assert _text(entry) == json.dumps(entry, separators=(",", ":"))
