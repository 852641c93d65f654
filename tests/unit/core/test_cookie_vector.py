"""The cookie as the golden vectors have it (D5), so that its recipe cannot drift."""

import json
from ipaddress import IPv6Address
from pathlib import Path

from fabricbios.core.answers import Answers
from fabricbios.ports import UdpPeer
from fabricbios.wire.discovery import SolicitRetry

VECTORS = Path(__file__).parents[2] / "vectors/data/solicit.json"


def test_the_cookie_of_the_vectors() -> None:
    (case,) = [c for c in json.loads(VECTORS.read_text())["cases"] if c["type"] == "solicit_retry"]
    given = case["given"]
    address = IPv6Address(bytes.fromhex(given["source_addr"]))
    peer = UdpPeer(str(address.ipv4_mapped or address), given["source_port"])
    answers = Answers(1, lambda _: bytes.fromhex(given["cookie_key"]))
    cookie = SolicitRetry.unpack(bytes.fromhex(case["hex"])).cookie
    assert answers.cookie(peer, int(given["minute"])) == cookie
