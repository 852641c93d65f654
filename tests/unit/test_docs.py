"""The documentation says what the code says: tables made from it, links that lead somewhere, names that exist."""

import re
import tomllib
from pathlib import Path

import pytest
from docs_tables import BLOCKS, ROOT, split

from fabricbios.cli.main import COMMANDS, cli
from fabricbios.daemon import config

PAGES = [ROOT / "ARCHITECTURE.md", *(p for p in sorted((ROOT / "docs").glob("*.md")))]
METRIC = re.compile(r"\bfabricbios_[a-z_]+\b")


@pytest.mark.parametrize("name", BLOCKS)
def test_what_is_made_from_the_code_is_what_the_code_makes(name):
    assert split(name)[2] == f"{BLOCKS[name][1]()}\n", "run python tests/docs_tables.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


def test_every_metric_is_documented_and_every_documented_one_exists():
    sources = [ROOT / "fabricbios/daemon" / name for name in ("measures.py", "metrics.py")]
    made = {name for source in sources for name in re.findall(r'"(fabricbios_[a-z_]+)"', source.read_text())}
    assert set(METRIC.findall((ROOT / "docs/operating.md").read_text())) == made


def test_the_example_configuration_is_one(tmp_path: Path):
    text = (ROOT / "docs/operating.md").read_text()
    example = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert example
    assert set(tomllib.loads(example[1])) >= {"mem_capacity", "policy"}
    file = tmp_path / "fabricbiosd.toml"
    file.write_text(example[1])
    read = config.load(file, {})
    assert read.mem_capacity == 4 << 30
    assert read.policy.peers[0x00112233445566778899AABBCCDDEEFF].max_leases == 100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_the_page_exists(page):
    """`fabricbios` in a block of commands is followed by options and a command that is there."""
    import click

    for line in re.findall(r"^(?:\S*/)?fabricbios ([^#\n]*)", page.read_text(), re.MULTILINE):
        words = re.sub(r"(-H|--identity) \S+", "", line).split()
        assert words[0] in COMMANDS, line
        command = cli.get_command(click.Context(cli), words[0])
        if isinstance(command, click.Group):
            assert words[1] in command.commands, line
            command = command.commands[words[1]]
        assert command is not None
        known = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line
