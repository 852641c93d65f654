import pytest

from fabricbios.hw import xdp_features
from fabricbios.hw.xdp_features import XdpAct, describe, features


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (XdpAct(0), "generic only"),
        (XdpAct.REDIRECT, "generic only"),
        (XdpAct.BASIC, "native"),
        (XdpAct.BASIC | XdpAct.REDIRECT | XdpAct.XSK_ZEROCOPY, "native, redirect, xsk_zerocopy"),
    ],
)
def test_features_in_words(flags, words):
    assert describe(flags) == words


def test_loopback_has_no_native_xdp_where_the_kernel_tells_at_all():
    found = features()
    if found:
        assert describe(found["lo"]) == "generic only"


def test_a_kernel_that_does_not_tell_gives_nothing(monkeypatch):
    def refuse():
        raise OSError(2, "no such family")

    monkeypatch.setattr(xdp_features, "_ask", refuse)
    assert features() == {}
