"""What fuzzing found worth keeping, and its seeds, through every target again, with the memory that decoding takes."""

import time
import tracemalloc
from contextlib import suppress

import pytest
from fuzz import corpus, oracles
from fuzz.records import Record, join, split
from fuzz.targets import TARGETS

from fabricbios.errors import WireError
from fabricbios.wire import RawTlv
from fabricbios.wire.registry import TYPES

INPUT_SECONDS = 2.0  # of CPU: thousands of times what one takes, and far below what an endless one would
BYTES_A_BYTE, BYTES_FLOOR = 100, 16 << 10  # Python's objects for the densest list, and an error with its traceback


def inputs(name: str) -> list[bytes]:
    return [b"", *TARGETS[name].seeds(), *corpus.kept(name)]


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_that_was_found_is_found_again(name: str) -> None:
    for data in inputs(name):
        started = time.process_time()
        TARGETS[name].run(data)
        assert time.process_time() - started < INPUT_SECONDS, data.hex()


def test_decoding_takes_no_memory_beyond_its_input() -> None:
    for name, cls in TYPES.items():
        for data in inputs(name):
            with suppress(WireError):
                cls.unpack(data)  # compiles the codec, once
            tracemalloc.start()
            with suppress(WireError):
                cls.unpack(data)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak <= BYTES_A_BYTE * len(data) + BYTES_FLOOR, (name, data.hex())


def test_every_type_is_a_target() -> None:
    assert set(TYPES) < set(TARGETS)


def test_archives_are_of_targets() -> None:
    assert {path.stem for path in corpus.KEPT.glob("*.zip")} <= set(TARGETS)


def test_a_value_that_outgrows_its_input_is_a_finding() -> None:
    oracles.bounded((b"x" * 100,), b"y" * 20)
    with pytest.raises(AssertionError, match="outgrows"):
        oracles.bounded((RawTlv(1, b"x" * 1000),), b"y")


def test_an_archive_gives_back_what_was_put_in(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(corpus, "KEPT", tmp_path)
    assert corpus.keep("frame", [b"b", b"a", b"a"]) == 2
    first = (tmp_path / "frame.zip").read_bytes()
    assert sorted(corpus.kept("frame")) == [b"a", b"b"]
    corpus.keep("frame", [b"a", b"b"])
    assert (tmp_path / "frame.zip").read_bytes() == first
    assert corpus.keep("frame", []) == 0
    assert corpus.kept("frame") == []


def test_records_are_split_as_they_were_joined() -> None:
    records = [Record(1, 2, b"abc"), Record(3, 255, b"")]
    assert list(split(join(*records))) == records
    assert list(split(join(*records)[:-5])) == [Record(1, 2, b"ab")]
    assert list(split(b"\1\2\0")) == []
