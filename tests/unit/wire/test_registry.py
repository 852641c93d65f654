"""The descriptions against the list of types, fields and tags in the vectors' README."""

import re

import pytest
from vectors.golden import readme

from fabricbios.model import Op
from fabricbios.wire.description import type_name
from fabricbios.wire.frame import MsgType
from fabricbios.wire.registry import PAYLOADS, TABLES, TYPES, enums, params_of, result_of, source_of, structs, wire_name
from fabricbios.wire.sequence import TYPE

HEADER = ["version", "op", "flags", "request_id", "lease_id", "nonce", "auth_tag", "payload"]
OUR_OWN = {("NVMEOF_DHCHAP_KEY", 0x0310), ("NVMEOF_HOST_NQN", 0x0311)}  # skipped by who does not know them (D1)
LINE = re.compile(r"^\* `(\w+)`: (.*)$", re.M)
TAG = re.compile(r"^\* `(\w+)` \(0x([0-9a-f]{4})\): (.*)$", re.M)


def names_in(text: str) -> list[str]:
    """Return the field names of one line of the README, in order."""
    text = re.sub(r"\(none\)|\(empty\)|\(reserved \[3\]\)", "", text)
    text = re.sub(r"(list|bytes)\(.*?\)(?!\))", r"\1", re.sub(r"\{[^}]*\}", "{}", text))
    text = re.sub(r"\([^)]*\)|if [^:]*:|UTF-8 text", "", text).replace("[", " ").replace("]", " ")
    return [part.split()[0] for part in text.split(",") if part.split()]


def described() -> dict[str, list[str]]:
    return {name: names_in(text) for name, text in LINE.findall(readme().split("## Types and their fields")[1])}


def test_every_type_of_the_readme_is_described_and_no_other():
    listed = {name for name in described() if name == name.lower()} - {TYPE}
    assert set(TYPES) == listed


@pytest.mark.parametrize("name", sorted(TYPES))
def test_fields_have_the_readme_s_names_in_its_order(name):
    ours = [wire_name(n) for n in TYPES[name].FIELDS]
    if ours[-1:] == ["payload"] and ours[0] == "version" and name != "frame":
        assert ours == HEADER
        ours = [wire_name(n) for n in TYPES[name].FIELDS["payload"].kind.item.FIELDS]
        listed = readme().split(f"* `{name}`: op ")[1].splitlines()[0].partition(":")[2]
        assert ours == names_in(listed)
    else:
        assert ours == described()[name]


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
def test_tags_have_the_readme_s_names_and_fields(table):
    listed = [(name, int(tag, 16), text) for name, tag, text in TAG.findall(readme())]
    for tag, tlv in table.by_tag.items():
        if (tlv.NAME, tag) not in OUR_OWN:
            fields = next(text for name, number, text in listed if (name, number) == (tlv.NAME, tag))
            assert [wire_name(n) for n in tlv.FIELDS] == names_in(fields)


def test_every_tag_of_the_readme_stands_in_a_table():
    known = {(tlv.NAME, tag) for table in TABLES for tag, tlv in table.by_tag.items()}
    assert {(name, int(tag, 16)) for name, tag, _ in TAG.findall(readme())} == known - OUR_OWN


def test_class_names_are_the_type_names():
    assert all(type_name(cls.__name__) == name for name, cls in TYPES.items())


def test_the_walk_reaches_nested_structs_and_enums():
    names = {cls.__name__ for cls in structs()}
    assert {"ActiveLease", "TaskletLimits", "FabricPage", "Filter", "HelloAck", "LogRecord"} <= names
    assert {"MsgType", "FrameFlag", "DpStatus", "PageAdvice"} <= {e.__name__ for e in enums()}


def test_every_struct_says_where_it_comes_from():
    assert all(source_of(cls) for cls in structs())


def test_every_op_and_msg_type_has_its_messages():
    for op in Op:
        assert params_of(op).__name__.endswith("Params")
        assert result_of(op) in TYPES.values()
    assert result_of(Op.CAP_REQUEST) is TYPES["token"]
    assert set(PAYLOADS) == set(MsgType) - {MsgType.ERROR}
