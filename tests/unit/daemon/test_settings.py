import pytest

from fabricbios.daemon.settings import SETTINGS, parse_dp_auths, parse_duration, parse_endpoint, parse_size
from fabricbios.model import DpAuth


@pytest.mark.parametrize(
    ("text", "count"),
    [("64M", 64 << 20), ("1GiB", 1 << 30), ("512k", 512 << 10), ("1.5 T", 3 << 39), ("4096", 4096), ("2 kb", 2048)],
)
def test_sizes(text, count):
    assert parse_size(text) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("9007199254740993", (1 << 53) + 1),
        ("18446744073709551615", (1 << 64) - 1),
        ("9007199254740993k", (1 << 63) + 1024),
    ],
)
def test_large_sizes_are_exact(text, count):
    assert parse_size(text) == count
    assert parse_duration(text.rstrip("k")) == int(text.rstrip("k"))


@pytest.mark.parametrize("text", ["", "M", "-1", "1X", "1e9", "64 MM", "٣M٣"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "secs"), [("30s", 30), ("5m", 300), ("1h", 3600), ("2d", 172800), ("7", 7), ("1ms", 1)]
)
def test_durations_round_up(text, secs):
    assert parse_duration(text) == secs


@pytest.mark.parametrize(
    ("text", "pair"), [("h:1", ("h", 1)), ("[::1]:5700", ("::1", 5700)), ("10.0.0.1:0", ("10.0.0.1", 0))]
)
def test_endpoints(text, pair):
    assert parse_endpoint(text) == pair


@pytest.mark.parametrize("text", ["h", "h:", "h:x", "h:65536", ":-1"])
def test_what_is_no_endpoint(text):
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_endpoint(text)


def test_dp_auth_lists_keep_their_order_and_lose_doubles():
    assert parse_dp_auths("siphash,blake2s,siphash") == (DpAuth.SIPHASH_FULL, DpAuth.BLAKE2S_FULL)
    with pytest.raises(ValueError, match="'md5' is none of"):
        parse_dp_auths("md5")


def test_every_default_is_one_that_its_own_parser_would_give():
    for s in SETTINGS:
        if s.default is not None and not isinstance(s.default, tuple):
            assert s.parse(str(s.default)) == s.default, s.name


@pytest.mark.parametrize("host", ["a" * 64, "a..b", "ü" * 60])
def test_what_can_be_no_hosts_name_is_said_where_it_stands(host: str) -> None:
    with pytest.raises(ValueError, match="no host's name"):
        parse_endpoint(f"{host}:5700")


@pytest.mark.parametrize("text", ["abc", "-1", "65536", "", "1.5", True])
def test_a_port_is_0_to_65535(text):
    (port,) = [s for s in SETTINGS if s.name == "control-port"]
    with pytest.raises(ValueError, match="is not a port: 0 to 65535"):
        port.parse(text)
    assert [port.parse(0), port.parse("65535")] == [0, 65535]
