"""Does XDP work on this kernel, in this mode? A real question over a veth pair of our own, and its real answer.

It proves what differs between kernels and configurations: loading, attaching, copying, XDP_TX. Of a network card's
driver it proves nothing: for that there is the attempt to attach, whose refusal has its reason in `XdpPath.choices`.

The pair lives in the daemon's own namespace, as it may not make others, for a fraction of a second. Both ends have
link-local addresses, the one kind that the kernel does not short-cut when it talks to itself.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fabricbios.dataplane import xdp_program
from fabricbios.dataplane.slots import Extent, Plane, SlotLease
from fabricbios.dataplane.xdp_layout import CounterRecord
from fabricbios.dataplane.xdp_maps import XdpMaps
from fabricbios.hw import bpf
from fabricbios.model import DpAuth
from fabricbios.wire import FbmuRead, Read, Tagger, question_message, with_tag

ASKER, ANSWERER = "fbxt0", "fbxt1"
_ADDRESS = {ASKER: "fe80::f:1", ANSWERER: "fe80::f:2"}
_NODAD, _LINK_SCOPE = 0x02, 253
_PORT, _LENGTH, _SECONDS = 5702, 64, 1.5
_LEASE_ID, _FOREVER = 1, 1 << 62
_FLAGS = {CounterRecord.NATIVE: bpf.XDP_FLAGS_DRV_MODE, CounterRecord.GENERIC: bpf.XDP_FLAGS_SKB_MODE}


def self_test(mode: CounterRecord) -> str:
    """Return "" if a READ over a veth pair was answered by the program in this mode, else what happened."""
    from pyroute2.netlink.exceptions import NetlinkError  # 14 MiB and a third of a start: only where XDP is tried

    try:
        with _pair() as (asker, answerer), _lease(mode) as (maps, program):
            links = [bpf.link_xdp(program, index, _FLAGS[mode]) for index in (asker, answerer)]
            try:
                return _ask(maps, asker, mode)
            finally:
                for link in links:
                    os.close(link)
    except (OSError, NetlinkError) as e:
        return f"self-test: {e}"


@contextmanager
def _pair() -> Iterator[tuple[int, int]]:
    """Make the pair; one that a killed predecessor left goes first. Yield both interface indexes."""
    from pyroute2.iproute.linux import IPRoute

    with IPRoute() as route:  # type: ignore[no-untyped-call]
        for left in route.link_lookup(ifname=ASKER):
            route.link("del", index=left)
        route.link("add", ifname=ASKER, kind="veth", peer={"ifname": ANSWERER})
        try:
            indexes = {name: route.link_lookup(ifname=name)[0] for name in (ASKER, ANSWERER)}
            for name, index in indexes.items():
                route.addr("add", index=index, address=_ADDRESS[name], prefixlen=64, flags=_NODAD, scope=_LINK_SCOPE)
                route.link("set", index=index, state="up")
            yield indexes[ASKER], indexes[ANSWERER]
        finally:
            route.link("del", ifname=ASKER)


@contextmanager
def _lease(mode: CounterRecord) -> Iterator[tuple[XdpMaps, int]]:
    """Load the program over maps of its own with one lease, whose bytes are zero."""
    maps = XdpMaps.create(1, 4096)
    try:
        key = bytes(32)
        extent = Extent(0, 4096)
        lease = SlotLease(_LEASE_ID, Plane.FBMU, extent, 3, DpAuth.SIPHASH_FULL, key, 1, _FOREVER, 1408, 1404)
        maps.table(maps.board()).install(lease, 0)
        program = xdp_program.load(maps, _PORT, 0, mode)
        try:
            yield maps, program
        finally:
            os.close(program)
    finally:
        maps.close()


def _ask(maps: XdpMaps, asker: int, mode: CounterRecord) -> str:
    """Ask until there is an answer: the first questions may come before the link is up."""
    tagger = Tagger(DpAuth.SIPHASH_FULL, bytes(32))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.1)
        until, nonce = time.monotonic() + _SECONDS, 0
        while time.monotonic() < until:
            nonce += 1
            bare = FbmuRead(nonce, _LEASE_ID, nonce, Read(0, _LENGTH, _LENGTH)).pack()
            asked = with_tag(bare, tagger.tag(question_message(bare, DpAuth.SIPHASH_FULL)))
            try:
                sock.sendto(asked, (_ADDRESS[ANSWERER], _PORT, 0, asker))
                answer = sock.recv(2048)
            except OSError:
                continue
            return "" if answer[64:] == bytes(_LENGTH) else "self-test: a wrong answer"
    return f"self-test: no answer ({maps.counters(mode)['requests']['read']} questions seen)"
