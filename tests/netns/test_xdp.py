"""The XDP path with real packets between two namespaces, native and generic, and processes that are killed."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fbmu_rig import question, read, write
from netns_rig import Inside, VethPair
from xdp_node import KEY, LENGTH, lease_id
from xdp_rig import PORT
from xdp_veth_rig import ask, bpffs_at, client, pass_all, silent, xdp_pair

from fabricbios.hw import bpf
from fabricbios.model import DpAuth, DpOp
from fabricbios.wire import Tagger, question_message

pytestmark = pytest.mark.netns
ROOT = Path(__file__).parents[2]
NATIVE, GENERIC = "xdp_native", "xdp_generic"
PATTERN = bytes(range(256)) * 256


class Node:
    """xdp_node.py in one namespace."""

    def __init__(self, namespace: str, spec: dict[str, object], prefix: tuple[str, ...] = ()) -> None:
        command = ["ip", "netns", "exec", namespace, *prefix, sys.executable, str(ROOT / "tests/xdp_node.py")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen([*command, json.dumps(spec)], text=True, env=environment, **pipes)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the node ended with {self.process.wait()}"
        self.told: dict[str, Any] = json.loads(line)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self, word: str) -> dict[str, Any]:
        """Stop or release; return the counters by path."""
        out, _ = self.process.communicate(word + "\n", timeout=60)
        assert self.process.returncode == 0
        told: dict[str, Any] = json.loads(out)
        return told


@pytest.fixture
def pair() -> Iterator[VethPair]:
    with xdp_pair() as made:
        yield made


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    with bpffs_at(tmp_path / "bpffs") as mount:
        yield mount


@pytest.fixture
def here(pair: VethPair) -> Inside:
    """The client's end."""
    inside = pair.inside(pair.here)
    pass_all(inside, pair.iface)
    return inside


@pytest.fixture
def start(pair: VethPair, bpffs: Path) -> Iterator[Callable[..., Node]]:
    started: list[Node] = []

    def begin(mode: str, **more: object) -> Node:
        spec = {"instance": "test", "bpffs": str(bpffs), "iface": pair.iface, "mode": mode, "port": PORT} | more
        started.append(Node(pair.there, spec))
        return started[-1]

    yield begin
    for node in started:
        if node.process.poll() is None:
            node.kill()


def holds(question_: bytes, answer: bytes, auth: DpAuth) -> bool:
    """Say whether an answer carries the tag that it must."""
    if auth == DpAuth.HMAC_HEADER:
        return answer[40:56] == question_[40:56]
    return answer[40:56] == Tagger(auth, KEY).tag(question_message(answer, auth))


@pytest.mark.parametrize("mode", ["native", "generic"])
@pytest.mark.parametrize("address", [VethPair.V4 + "1", VethPair.V6 + "1"], ids=["IPv4", "IPv6"])
def test_reads_and_writes_in_every_mode(start: Callable[..., Node], here: Inside, mode: str, address: str) -> None:
    node = start(mode)
    assert node.told["choices"] == [["fbv0", f"xdp_{mode}", ""]]
    sock, shadow, chance = client(here, address), bytearray(PATTERN[4096 : 4096 + LENGTH]), random.Random(1)
    largest = 1388 if ":" in address else 1408
    for auth in DpAuth:
        how = {"lease_id": lease_id(auth), "auth": auth}
        for nonce in range(1, 60):
            length = chance.choice([1, 2, 7, 64, 100, 511, 512, 1024, largest - 4])
            offset = chance.randrange(LENGTH - length)
            if chance.random() < 0.5:
                data = chance.randbytes(length)
                shadow[offset : offset + length] = data
                asked = write(offset, data, nonce, **how)
                answer = ask(sock, asked)
                assert answer[56:] == bytes(4)
            else:
                asked = read(offset, length, nonce, max(0, length - 4), **how)
                answer = ask(sock, asked)
                assert answer[64:] == shadow[offset : offset + length]
            assert holds(asked, answer, auth)
    counted = node.end("stop")
    assert sum(counted[f"xdp_{mode}"]["requests"].values()) == 4 * 59
    assert sum(counted["user"]["requests"].values()) == 0


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_what_xdp_cannot_answer_reaches_the_socket_and_the_same_window(
    start: Callable[..., Node], here: Inside, mode: str
) -> None:
    node = start(mode)
    sock, how = (
        client(here, VethPair.V4 + "1"),
        {"lease_id": lease_id(DpAuth.SIPHASH_FULL), "auth": DpAuth.SIPHASH_FULL},
    )
    asked = read(0, 1000, 1, **how)  # unpadded: the answer is longer than the question
    answer = ask(sock, asked)
    assert answer[64:] == PATTERN[4096:5096]
    assert holds(asked, answer, DpAuth.SIPHASH_FULL)
    assert silent(sock, asked)
    assert silent(sock, read(0, 64, 1, 60, **how))  # a nonce that the socket's path took is gone for the kernel's
    forged = bytearray(read(0, 1000, 50, **how))
    forged[45] ^= 1
    assert silent(sock, bytes(forged))
    counted = node.end("stop")
    assert counted["user"]["drops"]["bad_tag"] == 0  # it never got to user space
    assert counted[f"xdp_{mode}"]["drops"]["bad_tag"] == 1


def test_a_question_over_loopback_has_the_same_window(start: Callable[..., Node], pair: VethPair, here: Inside) -> None:
    start("native")
    at_home, away = client(pair.inside(pair.there), "127.0.0.1"), client(here, VethPair.V4 + "1")
    how = {"lease_id": lease_id(DpAuth.BLAKE2S_FULL)}
    asked = read(0, 64, 1, 60, **how)
    assert ask(at_home, asked)[64:] == PATTERN[4096:4160]
    assert silent(away, asked)
    assert ask(away, read(0, 64, 2, 60, **how))[64:] == PATTERN[4096:4160]
    assert silent(at_home, read(0, 64, 2, 60, **how))


def test_reads_go_on_and_leases_end_while_the_daemon_is_dead(start: Callable[..., Node], here: Inside) -> None:
    first = start("native", seconds=8)
    sock, how = client(here, VethPair.V4 + "1"), {"lease_id": lease_id(DpAuth.BLAKE2S_FULL)}
    assert ask(sock, write(0, b"before", 1, **how))[56] == 0
    first.kill()
    assert ask(sock, read(0, 6, 2, 2, **how))[64:] == b"before"
    assert ask(sock, write(0, b"orphan", 3, **how))[56] == 0
    nonce, status = 4, 0
    while status == 0:
        status = ask(sock, read(0, 6, nonce, 2, **how))[56]
        nonce += 1
    assert status == 2  # EXPIRED, with nobody there to say so
    second = start("native")
    assert second.told["adopted"] is True
    assert sorted(second.told["before"]) == [lease_id(auth) for auth in DpAuth]
    assert second.told["choices"] == [["fbv0", NATIVE, ""]]
    assert ask(sock, read(0, 6, nonce, 2, **how))[56] == 2
    second.end("stop")


def test_a_release_hands_over_without_a_gap(start: Callable[..., Node], here: Inside, bpffs: Path) -> None:
    start("generic").end("release")
    sock, how = client(here, VethPair.V4 + "1"), {"lease_id": lease_id(DpAuth.HMAC_FULL), "auth": DpAuth.HMAC_FULL}
    assert ask(sock, read(0, 64, 1, 60, **how))[56] == 0
    second = start("native")  # another mode: attached anew
    assert second.told["adopted"] is True
    assert second.told["choices"] == [["fbv0", NATIVE, ""]]
    assert silent(sock, read(0, 64, 1, 60, **how))  # the window outlived it too
    assert ask(sock, read(0, 64, 2, 60, **how))[56] == 0
    second.end("stop")
    assert not (bpffs / "fabricbios").exists()


def test_pins_of_another_layout_are_removed_with_their_links(
    start: Callable[..., Node], here: Inside, bpffs: Path
) -> None:
    start("native").end("release")
    here_now = next((bpffs / "fabricbios" / "test").iterdir())
    here_now.rename(here_now.with_name("0123456789ab"))
    second = start("native")
    assert second.told["adopted"] is False
    assert second.told["drained"] == ["0123456789ab"]
    assert second.told["choices"] == [["fbv0", NATIVE, ""]]
    second.end("stop")


def test_a_foreign_program_is_left_alone_and_named(start: Callable[..., Node], pair: VethPair, here: Inside) -> None:
    foreign = pass_all(pair.inside(pair.there), pair.iface)
    node = start("auto")
    why = "native: another XDP program is attached; generic: another XDP program is attached"
    assert node.told["choices"] == [["fbv0", "user", why]]
    sock = client(here, VethPair.V4 + "1")
    assert ask(sock, question(DpOp.PING, b"", 1, lease_id=lease_id(DpAuth.BLAKE2S_FULL)))[5] == DpOp.PONG
    assert node.end("stop")["user"]["requests"]["ping"] == 1
    assert bpf.link_info(foreign).ifindex
    os.close(foreign)


def test_three_capabilities_suffice(pair: VethPair, here: Inside, bpffs: Path) -> None:
    os.chown(bpffs, 65534, 65534)
    capabilities = "+bpf,+net_admin,+perfmon"
    drop = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps={capabilities}")
    spec = {"instance": "test", "bpffs": str(bpffs), "iface": pair.iface, "mode": "native", "port": PORT}
    bpffs.parent.chmod(0o755)
    for parent in bpffs.parents[:4]:
        parent.chmod(parent.stat().st_mode | 0o011)
    node = Node(pair.there, spec, (*drop, f"--ambient-caps={capabilities}", f"--bounding-set=-all,{capabilities}"))
    assert node.told["choices"] == [["fbv0", NATIVE, ""]]
    sock = client(here, VethPair.V4 + "1")
    assert ask(sock, read(0, 64, 1, 60, lease_id=lease_id(DpAuth.BLAKE2S_FULL)))[64:] == PATTERN[4096:4160]
    node.end("stop")


def test_nothing_else_is_touched(start: Callable[..., Node], here: Inside) -> None:
    """Other traffic of the interface goes on: the kernel answers an echo request through the program."""
    start("native")

    async def ping() -> int:
        command = ("ping", "-c1", "-W2", VethPair.V4 + "1")
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        sock.settimeout(30)
        body = struct.pack(">BBHHH", 8, 0, 0, 1, 1)
        total = sum(struct.unpack(">4H", body))
        sock.sendto(body[:2] + struct.pack(">H", ~total & 0xFFFF) + body[4:], (command[-1], 0))
        return sock.recv(100)[20]

    assert here.do(ping()) == 0
