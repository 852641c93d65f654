"""Lua literals."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any


def text(value: str) -> str:
    """Return a Lua string literal."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'


def table(items: Iterable[tuple[Any, str]]) -> str:
    """Return a Lua table; keys are numbers or names."""
    rows = (f"[{k}] = {v}" if isinstance(k, int) else f"{k} = {v}" for k, v in items)
    return "{ " + ", ".join(rows) + " }"


def values(enum: type[IntEnum]) -> str:
    return table((int(v), text(v.name)) for v in enum)
