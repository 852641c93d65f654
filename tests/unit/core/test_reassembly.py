import pytest
from discovery_rig import ASKER, at, frame

from fabricbios.core.reassembly import Reassembler
from fabricbios.errors import WireError
from fabricbios.wire.frame import Frame, FrameFlag, MsgType


def first(request_id: int = 1, size: int = 10, **fields: int) -> Frame:
    return frame(MsgType.ANNOUNCE, bytes(size), flags=FrameFlag.CONTINUED, request_id=request_id, **fields)


def last(request_id: int = 1, **fields: int) -> Frame:
    return frame(MsgType.ANNOUNCE, b"z", flags=FrameFlag.FINAL, request_id=request_id, **fields)


def test_a_message_is_keyed_by_address_sender_and_request() -> None:
    table = Reassembler()
    elsewhere = ASKER._replace(port=1)
    assert table.add(first(), ASKER, at()) is None
    for stranger, peer in ((last(2), ASKER), (last(1, sender=5), ASKER), (last(1), elsewhere)):
        with pytest.raises(WireError, match="beginning"):
            table.add(stranger, peer, at())
    whole = table.add(last(), ASKER, at())
    assert whole is not None
    assert [f.payload for f in whole] == [bytes(10), b"z"]
    assert (len(table), table.held) == (0, 0)


def test_time_runs_out_after_two_seconds() -> None:
    table = Reassembler()
    table.add(first(1), ASKER, at(0))
    table.add(first(2), ASKER, at(1))
    assert table.next_deadline() == at(2).boot_ns
    assert table.handle_timer(at(1.9)) == 0
    assert table.handle_timer(at(2)) == 1
    assert len(table) == 1


def test_a_broken_rule_drops_the_message() -> None:
    table = Reassembler()
    table.add(first(), ASKER, at())
    with pytest.raises(WireError):
        table.add(last(nonce=3), ASKER, at())
    assert (len(table), table.held) == (0, 0)


def test_bounds_drop_the_oldest() -> None:
    table = Reassembler(messages=16, of_a_sender=4, held=200)
    for i in range(5):
        table.add(first(i), ASKER, at())
    assert len(table) == 4
    with pytest.raises(WireError, match="beginning"):
        table.add(last(0), ASKER, at())
    assert table.add(last(4), ASKER, at()) is not None
    for i in range(100):
        table.add(first(i, sender=i), ASKER, at())
        assert len(table) <= 16
    for i in range(100):
        table.add(first(i, size=90, sender=i), ASKER, at())
        assert table.held <= 200
