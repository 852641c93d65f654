"""The parts of the documentation that are made from the code; `python tests/docs_tables.py` writes them again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/unit")]

from test_layers import BANNED, LAYERS  # noqa: E402  # found on the path that was just set

from fabricbios.core.lease import TRANSITIONS  # noqa: E402
from fabricbios.daemon.settings import SETTINGS, Setting  # noqa: E402
from fabricbios.model import LeaseState  # noqa: E402


def settings() -> str:
    rows = [f"| `--{s.name}` | `{s.key}` | {_takes(s)} | {_default(s.default)} | {s.help} |" for s in SETTINGS]
    return "\n".join(["| flag | key | takes | default | what |", "|---|---|---|---|---|", *rows])


def _takes(setting: Setting) -> str:
    return f"{setting.metavar}, repeatable" if setting.many else setting.metavar


def _default(value: object) -> str:
    if value in (None, (), 0):
        return ""
    if isinstance(value, tuple):
        return "`" + ",".join(getattr(v, "label", str(v)) for v in value) + "`"
    return f"`{value}`"


def states() -> str:
    rows = [f"    {a.name} --> {b.name}" for a in LeaseState for b in sorted(TRANSITIONS[a])]
    return "\n".join(["```mermaid", "stateDiagram-v2", "    [*] --> PENDING", *rows, "    FREE --> [*]", "```"])


def layers() -> str:
    rows = [f"| {_layer(name)} | {', '.join(map(_layer, sorted(may))) or 'the standard library'} |{_pure(name)}|"
            for name, may in LAYERS.items()]  # fmt: skip
    return "\n".join(["| layer | may import | |", "|---|---|---|", *rows])


def _layer(name: str) -> str:
    return f"`{name}`" if name else "vocabulary"


def _pure(name: str) -> str:
    return " no I/O, clock or threads; chance from a seed " if name == "simulation" else (
        " no I/O, clock, chance or threads " if name in BANNED else " ")  # fmt: skip


BLOCKS: dict[str, tuple[str, Callable[[], str]]] = {
    "settings": ("docs/operating.md", settings),
    "states": ("docs/leases.md", states),
    "layers": ("ARCHITECTURE.md", layers),
}


END = "<!-- end -->"


def begin(name: str) -> str:
    return f"<!-- made from the code: {name} -->\n"


def split(name: str) -> tuple[Path, str, str, str]:
    """Return a block's page, and what stands before, in and behind it. ValueError where the page has no such block."""
    path = ROOT / BLOCKS[name][0]
    text = path.read_text()
    start = text.index(begin(name)) + len(begin(name))
    end = text.index(END, start)
    return path, text[:start], text[start:end], text[end:]


def main() -> None:
    for name, (_, make) in BLOCKS.items():
        path, before, _, behind = split(name)
        path.write_text(f"{before}{make()}\n{behind}")


if __name__ == "__main__":
    main()
