import pytest
from discovery_rig import START_MS, at

from fabricbios.core.replay import Freshness, ReplayWindow

FRESH, REPLAYED, SKEWED, TOO_MANY = Freshness


def test_a_nonce_counts_once() -> None:
    window = ReplayWindow()
    assert window.admit(1, START_MS, at()) is FRESH
    assert window.admit(1, START_MS, at()) is REPLAYED
    assert window.admit(2, START_MS, at()) is FRESH
    assert window.admit(1, START_MS - 5, at()) is FRESH  # late, but new: UDP reorders


@pytest.mark.parametrize(
    ("off_ms", "verdict"), [(30_000, FRESH), (-30_000, FRESH), (30_001, SKEWED), (-30_001, SKEWED)]
)
def test_skew_of_thirty_seconds(off_ms: int, verdict: Freshness) -> None:
    assert ReplayWindow().admit(1, START_MS + off_ms, at()) is verdict


def test_no_nonce_is_good_twice_within_its_skew_however_late_it_comes() -> None:
    window = ReplayWindow()
    ahead = START_MS + 30_000
    assert window.admit(1, ahead, at()) is FRESH
    assert all(window.admit(1, ahead, at(s)) is REPLAYED for s in range(1, 61))
    assert window.admit(1, ahead, at(61)) is SKEWED


def test_fragments_share_their_nonce_until_the_last_one() -> None:
    window = ReplayWindow()
    assert window.reserve(1, 77, START_MS, at()) is FRESH
    assert window.reserve(1, 77, START_MS, at(1)) is FRESH
    assert window.reserve(1, 78, START_MS, at(1)) is REPLAYED  # another message
    assert window.admit(1, START_MS, at(1)) is REPLAYED
    window.spend(1, START_MS)
    assert window.reserve(1, 77, START_MS, at(1)) is REPLAYED


def test_a_reservation_ends_with_the_reassembly() -> None:
    window = ReplayWindow()
    assert window.reserve(1, 77, START_MS, at()) is FRESH
    assert window.reserve(1, 77, START_MS, at(2.1)) is REPLAYED


def test_bounded_senders_oldest_out() -> None:
    window = ReplayWindow(senders=3)
    for sender in (1, 2, 3):
        window.admit(sender, START_MS, at())
    window.admit(1, START_MS + 1, at())  # heard again: 2 is the oldest now
    window.admit(4, START_MS, at())
    assert window.admit(1, START_MS, at()) is REPLAYED
    assert window.admit(3, START_MS, at()) is REPLAYED
    assert window.admit(2, START_MS, at()) is FRESH


def test_bounded_nonces() -> None:
    window = ReplayWindow(nonces=4, held=10)
    assert [window.admit(1, START_MS + i, at()) for i in range(6)] == [FRESH] * 4 + [TOO_MANY] * 2
    for sender in range(2, 40):
        window.admit(sender, START_MS, at())
        assert len(window) <= 10
    assert window.admit(39, START_MS + 1, at(61)) is SKEWED
    assert window.admit(39, START_MS + 60_000, at(61)) is FRESH
    assert len(window) <= 10
