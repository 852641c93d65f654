"""Captures without a NIC: UDP datagrams as a pcap file of bare IP packets, and what tshark reads in them."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

DISSECTOR = Path(__file__).parents[1] / "docs/wireshark/fabricbios.lua"
LINKTYPE_RAW = 101  # packets start with their IP header
COMPLAINTS = ("fabricbios.malformed", "fabricbios.refused", "_ws.malformed")
NET, NODE = bytes((192, 0, 2)), bytes((198, 51, 100, 2))


class Sent(NamedTuple):
    """One UDP datagram."""

    data: bytes
    dport: int
    sport: int = 40_000
    v6: bool = False
    host: int = 1  # the sender's address ends in this

    def packet(self) -> bytes:
        """Return it as an IP packet; checksums are zero, which captures know from offloading."""
        udp = struct.pack(">4H", self.sport, self.dport, 8 + len(self.data), 0) + self.data
        if self.v6:
            return struct.pack(">IHBB", 6 << 28, len(udp), 17, 64) + bytes(15) + b"\x01" + bytes(15) + b"\x02" + udp
        return (
            struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + NET + bytes((self.host,)) + NODE + udp
        )


class Shown(NamedTuple):
    """One field as tshark shows it; `raw` is its bytes."""

    name: str
    show: str
    raw: bytes


class Packet(NamedTuple):
    """What tshark made of one packet: our fields in order, complaints (malformed, refused), and protocols."""

    fields: list[Shown]
    complaints: list[str]
    protocols: list[str]

    def values(self, name: str) -> list[str]:
        return [f.show for f in self.fields if f.name == name]


def write_pcap(path: Path, datagrams: list[Sent]) -> Path:
    """Write a capture with one datagram a millisecond."""
    out = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, LINKTYPE_RAW)]
    for i, sent in enumerate(datagrams):
        packet = sent.packet()
        out.append(struct.pack("<IIII", 1_800_000_000 + i // 1000, i % 1000 * 1000, len(packet), len(packet)) + packet)
    path.write_bytes(b"".join(out))
    return path


def tshark(capture: Path, *arguments: str, secrets: Path | None = None) -> str:
    """Return what tshark prints with our dissector, which must not have failed anywhere.

    Root's tshark runs no Lua scripts from 4.4 on, so it is run as nobody, in a folder of its own that nobody may read.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for source in (DISSECTOR, capture, *([secrets] if secrets else [])):
            shutil.copyfile(source, folder / source.name)
        command = ["tshark", "-n", "-r", capture.name, "-X", f"lua_script:{DISSECTOR.name}", *arguments]
        command += ["-o", f"tls.keylog_file:{secrets.name}"] if secrets else []
        surroundings = {"PATH": os.environ["PATH"], "HOME": name, "LC_ALL": "C.UTF-8"}
        how: dict[str, Any] = {"cwd": folder, "env": surroundings, **_unprivileged()}
        return _checked(subprocess.run(command, capture_output=True, text=True, timeout=60, **how))


def _unprivileged() -> dict[str, Any]:
    return {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


def _checked(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    assert "lua" not in done.stderr.lower(), done.stderr
    assert "Lua Error" not in done.stdout, done.stdout[done.stdout.index("Lua Error") :][:500]
    return done.stdout


def packets(capture: Path, *arguments: str, secrets: Path | None = None) -> list[Packet]:
    """Return every packet of a capture as the dissector shows it."""
    shown = tshark(capture, "-T", "pdml", *arguments, secrets=secrets)
    return [_packet(p) for p in ElementTree.fromstring(shown).iter("packet")]


def _packet(element: ElementTree.Element) -> Packet:
    fields, complaints = [], []
    for proto in element.findall("proto"):
        for found in proto.iter("field"):
            name, show = found.get("name", ""), found.get("show", "")
            if name in COMPLAINTS:
                complaints.append(found.get("showname", ""))
            elif name.startswith("fabricbios."):
                whole = found.get("unmaskedvalue") or found.get("value", "")  # a bit's own value is half a byte
                fields.append(Shown(name, show, bytes.fromhex(whole)))
    return Packet(fields, complaints, [p.get("name", "") for p in element.findall("proto")])
