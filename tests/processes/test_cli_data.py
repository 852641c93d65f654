"""`fabricbios read` and `write` against a real node: any bytes of any lease, which nothing they do ends."""

from contextlib import closing

import pytest
from cli_rig import Cli
from node_rig import NodeProcess

pytestmark = pytest.mark.timeout(120)
TEXT = bytes(range(256)) * 4


@pytest.fixture(scope="module")
def owner(tmp_path_factory):
    directory = tmp_path_factory.mktemp("node")
    (directory / "disk").write_bytes(b"")
    (directory / "disk").open("r+b").truncate(4 << 20)
    with closing(NodeProcess(directory, "--block", str(directory / "disk"))) as process:
        process.start()
        cli = Cli(directory / "me", process.port)
        cli.json("token", "request")
        yield cli


def leased(owner, kind, *words):
    return owner.json("lease", kind, "--size", "64k", "--ttl", "5m", *words)["lease_id"]


@pytest.mark.parametrize("kind", ["mem", "block"])
@pytest.mark.parametrize("binding", ["udp", "quic"])
def test_a_lease_is_used_by_the_binding_that_it_has(owner, kind, binding):
    lease = leased(owner, kind, "--binding", binding)
    assert owner.run("write", lease, stdin=TEXT).code == 0
    assert owner.run("read", lease, "--length", "1k").out == TEXT
    owner.json("free", lease)


def test_a_lease_survives_who_insists_on_another_binding(owner):
    lease = leased(owner, "mem", "--binding", "quic")
    owner.run("write", lease, stdin=TEXT)
    for words in (("read", lease), ("write", lease)):
        assert "no such ENDPOINT" in owner.fails(5, *words, "--binding", "udp", stdin=b"x")
    assert owner.run("read", lease, "--length", "1k").out == TEXT
    owner.json("free", lease)


def test_any_bytes_of_a_block_lease_are_read(owner):
    lease = leased(owner, "block")
    owner.run("write", lease, stdin=TEXT)
    for offset, length in ((0, 3), (510, 5), (1, 1023), (700, 0), (65535, 1)):
        told = owner.run("read", lease, "--offset", str(offset), "--length", str(length))
        assert told.out == (TEXT + bytes(65536 - 1024))[offset : offset + length]
    assert owner.run("read", lease, "--offset", "65530").out == bytes(6)
    assert "beyond" in owner.fails(2, "read", lease, "--offset", "65k")
    assert "multiple of 512" in owner.fails(2, "write", lease, "--offset", "100", stdin=b"x")
    owner.json("free", lease)
