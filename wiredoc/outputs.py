"""Everything that is generated, by its path in the project."""

from __future__ import annotations

from pathlib import Path

from wiredoc.blocks import filled
from wiredoc.c_header import header
from wiredoc.lua import dissector
from wiredoc.pages import pages

WITH_BLOCKS = ("docs/spec/conversation.md",)  # hand-written, with generated parts between markers
ROOT = Path(__file__).parents[1]


def outputs() -> dict[str, str]:
    """Return the text of every generated file."""
    found = {"docs/wireshark/fabricbios.lua": dissector(), "docs/spec/fabricbios_wire.h": header()}
    found |= {f"docs/spec/{name}": text for name, text in pages().items()}
    return found | {p: filled((ROOT / p).read_text()) for p in WITH_BLOCKS}


def stale() -> list[str]:
    """Return the paths whose files are not what the tables give now."""
    return [p for p, made in outputs().items() if not (ROOT / p).exists() or (ROOT / p).read_text() != made]


def write() -> list[str]:
    """Bring the files up to date; return the paths that changed."""
    changed = stale()
    made = outputs()
    for path in changed:
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(made[path])
    return changed
