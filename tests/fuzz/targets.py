"""All that is fuzzed: each type of the wire by its name, and whatever else takes a stranger's bytes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from vectors.golden import FAMILIES, family

from fabricbios.cli.wire import decode_one, encode_one
from fabricbios.errors import WireError
from fabricbios.model import DpAuth
from fabricbios.wire import sequence
from fabricbios.wire.circumstances import Given
from fabricbios.wire.dataplane import DP_HEADER_SIZE, DpHeader
from fabricbios.wire.dp_auth import Tagger, question_message, tag_in, with_tag
from fabricbios.wire.fragmentation import inflate, peek
from fabricbios.wire.registry import TYPES
from fabricbios.wire.rules import INFLATE_LIMIT
from fuzz import corpus, oracles, parties

NAMES = sorted(TYPES)
TAGGERS = [Tagger(mode, bytes(range(32))) for mode in DpAuth]


class Target(NamedTuple):
    """`run` raises for a finding and for nothing else; `seeds` are the inputs to begin with."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]


def _inflate(data: bytes) -> None:
    try:
        out = inflate(data)
    except WireError as error:
        oracles.placed(error, data)
    else:
        assert len(out) <= INFLATE_LIMIT
        assert peek(data, 100, compressed=True) == out[:100]
    assert len(peek(data, 64, compressed=True)) <= 64


def _bombs() -> list[bytes]:
    plain = [b"", b"fabric", bytes(INFLATE_LIMIT), bytes(INFLATE_LIMIT + 1), bytes(range(256)) * 4]
    streams = [zlib.compress(p, level) for p in plain for level in (0, 9) if level or len(p) < 2000]
    return [*streams, streams[2] + b"x", streams[2][:-1], streams[2] + streams[2]]


def _dp_header(data: bytes) -> None:
    """Tags over any datagram of at least a header; they cover no more than there is."""
    try:
        header, size = DpHeader.unpack_prefix(data)
    except WireError:
        header, size = None, 0
    assert header is None or (size == DP_HEADER_SIZE and header.pack() == data[:size])
    if len(data) < DP_HEADER_SIZE:
        return
    for tagger in TAGGERS:
        covered = question_message(data, tagger.mode)
        assert covered[:40] == data[:40]
        assert covered[40:] == data[DP_HEADER_SIZE : DP_HEADER_SIZE + len(covered) - 40]
        tag = tagger.tag_of(data)
        assert tag_in(with_tag(data, tag)) == tag
        assert tagger.tag_of(with_tag(data, tag)) == tag, "a tag covers itself"


def _json_line(data: bytes) -> None:
    """A line of `fabricbios wire encode --batch`: what it makes, decodes."""
    try:
        line = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(line, dict) or not isinstance(line.get("type"), str):
        return
    given = oracles.refuses(Given.of, line.get("given") or {})
    made = None if given is None else oracles.refuses(encode_one, line["type"], line.get("fields"), given)
    if made is not None:
        oracles.refuses(decode_one, line["type"], made, given)


def _json_lines() -> list[bytes]:
    cases = [case for name in FAMILIES for case in family(name)["cases"]]
    lines = [{k: c[k] for k in ("type", "fields", "given") if k in c} for c in cases]
    return [line for line in (json.dumps(line).encode() for line in lines) if len(line) <= corpus.LONGEST]


def _json_change(data: bytes) -> None:
    """The fields of a valid message with one of them made something else: encoded or LocalMisuse."""
    if len(data) < 3:
        return
    cls = TYPES[NAMES[data[0] % len(NAMES)]]
    oracles.json_of(cls, data[3:])
    value = oracles.refuses(cls.unpack, data[3:])
    if value is None or not cls.FIELDS:
        return
    fields = oracles.to_json(value)
    name = list(fields)[data[1] % len(fields)]
    fields[name] = _ODD[data[2] % len(_ODD)]
    changed = oracles.refuses(oracles.from_json, cls, fields)
    packed = None if changed is None else oracles.refuses(changed.pack)
    if packed is not None:
        assert cls.unpack(packed).pack() == packed, "what was sent is not what is read"


_ODD = (
    None, 0, 1, -1, 255, 256, 1 << 32, 1 << 64, 1 << 128, 1.5, True, "", "0x", "zz", "0x10", "00", "é", "\ud800", [],
    [0], [None], ["00"], {}, {"tag": 1}, [{"tag": 1, "raw": ""}], [{"tag": 0x0107, "value": {"dp_auth": 9}}], [[]],
    "0" * 64,
)  # fmt: skip


def _changes() -> list[bytes]:
    places = {name: bytes([i]) for i, name in enumerate(NAMES)}
    return [places[name] + b"\0\0" + data for name in NAMES for data in corpus.golden(name)]


def _message(name: str) -> Target:
    return Target(partial(oracles.message, TYPES[name]), partial(corpus.golden, name))


DATAGRAMS = tuple(name for name in NAMES if name.startswith(("fbmu_", "fbbu_")))
TARGETS: dict[str, Target] = {
    **{name: _message(name) for name in NAMES},
    sequence.TYPE: Target(oracles.frame_sequence, partial(corpus.golden, sequence.TYPE, "frame")),
    "inflate": Target(_inflate, _bombs),
    "dp_header": Target(_dp_header, partial(corpus.golden, *DATAGRAMS)),
    "json_line": Target(_json_line, _json_lines),
    "json_change": Target(_json_change, _changes),
    "token_verify": Target(parties.token_verify, partial(corpus.golden, "token")),
    "verify_entry": Target(parties.verify_any_entry, parties.entries),
    "reassembly": Target(parties.reassembly, parties.fragments),
    "discovery": Target(parties.discovery, parties.datagrams),
    "relay": Target(parties.relay, parties.datagrams),
    "node": Target(parties.node, parties.requests),
}
