"""The golden vectors, read once: data/README.md says what stands in them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
FAMILIES = sorted(p.stem for p in DATA.glob("*.json"))


@cache
def family(name: str) -> dict[str, Any]:
    """Return {"cases", "invalid", ...} of one family."""
    loaded: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    return loaded


def readme() -> str:
    """Return the text that names all types, fields and tags."""
    return (DATA / "README.md").read_text()
