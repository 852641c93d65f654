"""What is checked in is what the tables give now, and a C compiler agrees with the header."""

import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner
from facilities import require
from vectors.golden import FAMILIES, family

from fabricbios.cli.wire import wire
from fabricbios.wire.registry import TYPES
from wiredoc import outputs
from wiredoc.__main__ import main
from wiredoc.annotated import annotated
from wiredoc.blocks import filled
from wiredoc.conversation import CONTROL, DATA, datagrams_of, frames

ROOT = Path(__file__).parents[3]
SPEC = ROOT / "docs/spec"


def test_generated_files_are_up_to_date():
    assert outputs.stale() == [], "run `python -m wiredoc --write`"


def test_a_stale_file_is_noticed_and_mended(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "ROOT", tmp_path)
    page = tmp_path / outputs.WITH_BLOCKS[0]
    page.parent.mkdir(parents=True)
    page.write_text("kept\n<!-- begin: read -->\nold\n<!-- end -->\nkept too\n")
    assert set(outputs.write()) == set(outputs.outputs())
    assert outputs.stale() == []
    assert page.read_text().startswith("kept\n")
    assert "old" not in page.read_text()
    header = tmp_path / "docs/spec/fabricbios_wire.h"
    header.write_text(header.read_text().replace("5702", "5703"))
    assert outputs.stale() == ["docs/spec/fabricbios_wire.h"]


def test_an_unknown_block_is_a_mistake():
    with pytest.raises(KeyError):
        filled("<!-- begin: nonsense -->\n<!-- end -->\n")


def test_every_link_of_the_spec_leads_somewhere():
    pages = {p.name: p.read_text() for p in SPEC.glob("*.md")}
    anchors = {name: _anchors(text) for name, text in pages.items()}
    for name, text in pages.items():
        for target, anchor in re.findall(r"\]\(([\w./-]*\.(?:md|h))?(?:#([\w-]+))?\)", text):
            page = target or name
            assert (SPEC / page).exists(), (name, target)
            assert not anchor or anchor in anchors[page], (name, target, anchor)


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings} | set(
        re.findall(r'<a id="(\w+)">', text)
    )


def test_every_type_has_a_table():
    text = "".join(p.read_text() for p in SPEC.glob("*.md"))
    for name in TYPES:
        assert f"\n## {name}\n" in text, name


def test_annotations_spell_out_every_byte():
    """`annotated` asserts that its pieces are the message; the conversation uses all kinds that it knows."""
    for name in CONTROL:
        for frame in frames(name):
            assert annotated(frame).count("\n") > 8
    for name in DATA:
        for shown, made in zip(DATA[name], datagrams_of(name), strict=True):
            assert type(shown).unpack(made).payload == shown.payload


READER = r"""
#include <endian.h>
#include <stdio.h>
#include "fabricbios_wire.h"
int main(void) {
    struct { struct fabricbios_dp head; struct fabricbios_fbmu_read_head read; } __attribute__((packed)) m;
    if (fread(&m, sizeof m, 1, stdin) != 1) return 2;
    if (m.head.op != FABRICBIOS_DP_OP_READ || m.head.version != FABRICBIOS_DP_VERSION) return 3;
    printf("%u %llu %llu %u\n", be32toh(m.head.request_id), (unsigned long long)be64toh(m.head.nonce),
           (unsigned long long)be64toh(m.read.offset), be32toh(m.read.length));
    return 0;
}
"""


@pytest.mark.parametrize("compiler", ["cc -std=gnu11", "c++ -std=c++17 -x c++"])
def test_the_header_compiles_and_reads_a_golden_read(compiler, tmp_path):
    require("tools", bool(shutil.which(compiler.split()[0])), f"{compiler.split()[0]} is not installed")
    (tmp_path / "reader.c").write_text(READER)
    command = [*compiler.split(), "-Wall", "-Wextra", "-Werror", f"-I{SPEC}", "-o", "reader", "reader.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    case = next(c for c in family("fbmu")["cases"] if c["type"] == "fbmu_read")
    raw = bytes.fromhex(case["hex"])
    said = subprocess.run([tmp_path / "reader"], input=raw, capture_output=True, check=True).stdout
    assert tuple(map(int, said.split())) == struct.unpack(">12xI16xQ16xQI", raw[:68])


def test_documents_are_of_their_schema():
    schema = jsonschema.Draft202012Validator(json.loads((ROOT / "docs/schema/wire.json").read_text()))
    for name in FAMILIES:
        case = family(name)["cases"][-1]
        given = json.dumps(case.get("given", {}))
        schema.validate(_document(["decode", case["type"], "--hex", case["hex"], "--given", given]))
    encoded = _document(["encode", case["type"]], json.dumps(case["fields"]))
    schema.validate(encoded)
    assert not schema.is_valid({**encoded, "fields": {}}), "one of them"
    assert not schema.is_valid({"schema": "fabricbios.wire/1", "type": case["type"]})


def _document(words: list[str], stdin: str = "") -> dict:
    made = CliRunner().invoke(wire, [*words, "--json"], input=stdin, catch_exceptions=False)
    return json.loads(made.output)


def test_the_command_says_what_is_stale(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(outputs, "ROOT", tmp_path)
    (tmp_path / "docs/spec").mkdir(parents=True)
    (tmp_path / outputs.WITH_BLOCKS[0]).write_text("no blocks")
    for argument, code, said in (("--check", 1, "stale"), ("--write", 0, "wrote"), ("--check", 0, "")):
        monkeypatch.setattr("sys.argv", ["wiredoc", argument])
        assert main() == code
        assert capsys.readouterr().out.startswith(said)
