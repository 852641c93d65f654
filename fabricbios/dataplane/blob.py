"""The shipped BPF programs: instructions that are linked but for the maps they use.

JSON, so that a package stays text and a change shows; read once at start. `dataplane.build` makes it.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from fabricbios.dataplane.xdp_layout import BPF_DIR

BLOB_FILE = BPF_DIR / "fabricbios.bpf.json"
TRACE_BLOB_FILE = BPF_DIR / "fabricbios.trace.bpf.json"
_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE = 1, 2  # include/uapi/linux/bpf.h: src_reg of BPF_LD_IMM64
_INSTRUCTION = struct.Struct("<BBhi")


class MapUse(NamedTuple):
    """Instruction number `at` loads a map: its address (`offset` -1), or that of a byte of its only value."""

    at: int
    map: str
    offset: int


class Blob(NamedTuple):
    """`functions` and `btf` as BPF_PROG_LOAD and BPF_BTF_LOAD take them (hw/bpf.py), `config_size` the size of the
    constants; `sources` and `clang` say where all of it came from."""

    instructions: bytes
    uses: tuple[MapUse, ...]
    functions: bytes
    btf: bytes
    config_size: int
    sources: str
    clang: str

    @staticmethod
    def shipped(file: Path = BLOB_FILE) -> Blob:
        """Read a blob of this package. OSError or ValueError where the installation is broken."""
        raw = json.loads(file.read_text())
        uses = tuple(MapUse(*use) for use in raw["uses"])
        code, functions, btf = (_decoded(raw[name]) for name in ("instructions", "functions", "btf"))
        return Blob(code, uses, functions, btf, raw["config_size"], raw["sources"], raw["clang"])

    def to_text(self) -> str:
        """Return the JSON text, the same for the same blob."""
        document = {
            "clang": self.clang,
            "sources": self.sources,
            "config_size": self.config_size,
            "uses": self.uses,
            "functions": _encoded(self.functions),
            "btf": _encoded(self.btf),
            "instructions": _encoded(self.instructions),
        }
        return json.dumps(document, indent=0) + "\n"

    def linked(self, maps: Mapping[str, int]) -> bytes:
        """Return the instructions with descriptors of `maps` in them, ready for BPF_PROG_LOAD."""
        code = bytearray(self.instructions)
        for use in self.uses:
            opcode, registers, _, _ = _INSTRUCTION.unpack_from(code, use.at * 8)
            source = _PSEUDO_MAP_FD if use.offset < 0 else _PSEUDO_MAP_VALUE
            _INSTRUCTION.pack_into(code, use.at * 8, opcode, registers & 15 | source << 4, 0, maps[use.map])
            _INSTRUCTION.pack_into(code, use.at * 8 + 8, 0, 0, 0, max(use.offset, 0))
        return bytes(code)


def _encoded(data: bytes) -> list[str]:
    text = base64.b64encode(data).decode()
    return [text[i : i + 120] for i in range(0, len(text), 120)]


def _decoded(rows: list[str]) -> bytes:
    return base64.b64decode("".join(rows))
