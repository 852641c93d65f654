"""What the BPF programs and Python share: the text of `bpf/slots_gen.h`, made from the Python tables.

The version that names the pins is a hash of the same tables: programs and daemons of one version read the same
bytes the same way, others must not meet in one set of maps.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from pathlib import Path

from fabricbios.dataplane.counters import COUNTERS, CountedOp, DropReason
from fabricbios.dataplane.slab import SLAB_BYTES
from fabricbios.dataplane.slots import SLOT, WINDOW, WINDOW_WORDS, Plane, SlotState
from fabricbios.layout import Field, Layout
from fabricbios.model import DpAuth, DpOp, DpStatus, Perm

BPF_DIR = Path(__file__).parent / "bpf"
HEADER_FILE = BPF_DIR / "slots_gen.h"

DP_HEADER = Layout(
    "dp_header",
    "what every datagram of FBMU and FBBU starts with (D10)",
    (
        Field("magic", "u8", "FBMU or FBBU", 4),
        Field("version", "u8", "1"),
        Field("op", "u8", "enum dp_op"),
        Field("flags", "be16", "0"),
        Field("payload_len", "be32", "bytes after the header"),
        Field("request_id", "be32", "repeated by the answer"),
        Field("lease_id", "u8", "u128, repeated by the answer", 16),
        Field("nonce", "be64", "repeated by the answer"),
        Field("auth_tag", "u8", "enum dp_auth says how it is made", 16),
    ),
)

XDP_CONFIG = Layout(
    "xdp_config",
    "constants of one loaded program (fabricbios/dataplane/xdp_layout.py)",
    (
        Field("fbmu_port", "u16", "network order; 0 takes no port"),
        Field("fbbu_port", "u16", "network order; 0 takes no port"),
        Field("record", "u32", "enum counter_record: which counters this program adds to"),
        Field("slab_bytes", "u64", "leased bytes in one slab; its value is SLAB_MARGIN longer"),
        Field("index_mask", "u32", "entries of the index less one"),
        Field("index_shift", "u32", "64 less the bits of index_mask"),
    ),
)


class CounterRecord(IntEnum):
    """Which counters a loaded program adds to: packets of interfaces, or what user space handed over."""

    INTERFACE = 0
    SOCKET = 1


SLAB_MARGIN = 4096
"""Offset and length of a copy are bounded one by one for the verifier, so a slab's value is longer by one copy."""

_ENUMS: tuple[tuple[type[IntEnum], str], ...] = (
    (SlotState, "slot_state"),
    (Plane, "plane"),
    (CounterRecord, "counter_record"),
    (DropReason, "drop"),
    (CountedOp, "counted"),
    (DpOp, "dp_op"),
    (DpStatus, "dp_status"),
    (DpAuth, "dp_auth"),
)
_LAYOUTS = (SLOT, COUNTERS, DP_HEADER, XDP_CONFIG)
_NUMBERS = {
    "SLAB_BYTES": SLAB_BYTES,
    "SLAB_MARGIN": SLAB_MARGIN,
    "WINDOW": WINDOW,
    "WINDOW_WORDS": WINDOW_WORDS,
    "RIGHT_READ": int(Perm.READ),
    "RIGHT_WRITE": int(Perm.WRITE),
}


def _enum_to_c(enum: type[IntEnum], name: str) -> str:
    rows = "\n".join(f"\t{name.upper()}_{member.name} = {member.value}," for member in enum)
    return f"/* {enum.__module__}.{enum.__name__} */\nenum {name} {{\n{rows}\n}};\n"


def generated_header() -> str:
    """Return the text that `bpf/slots_gen.h` must have."""
    numbers = "".join(f"#define {name} {value}\n" for name, value in _NUMBERS.items())
    parts = [
        "/* SPDX-License-Identifier: Apache-2.0 */\n"
        "/* Generated from the tables in fabricbios/dataplane by `python -m fabricbios.dataplane.build`; do not edit. */\n"
        "#ifndef FABRICBIOS_SLOTS_GEN_H\n#define FABRICBIOS_SLOTS_GEN_H\n\n#include <linux/types.h>\n",
        numbers,
        *(_enum_to_c(enum, name) for enum, name in _ENUMS),
        *(layout.to_c() for layout in _LAYOUTS),
    ]
    return "\n".join(parts) + "\n#endif\n"


def _layout_version() -> str:
    """Hash names, kinds and numbers alone: a better comment is no other layout."""
    rows = [(layout.name, *((f.name, f.kind, f.count) for f in layout.fields)) for layout in _LAYOUTS]
    enums = [(name, *((member.name, member.value) for member in enum)) for enum, name in _ENUMS]
    return hashlib.sha256(repr((rows, enums, sorted(_NUMBERS.items()))).encode()).hexdigest()[:12]


LAYOUT_VERSION = _layout_version()
