"""Which modules are mutated, and which tests are to notice."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WIRE = ROOT / "fabricbios" / "wire"
MODULES = {f"fabricbios.wire.{p.stem}": p for p in sorted(WIRE.glob("*.py")) if p.stem != "__init__"} | {
    "fabricbios.core.token": ROOT / "fabricbios" / "core" / "token.py"
}
WRITES_SOURCE = frozenset({"fabricbios.wire.kinds", "fabricbios.wire.compiler", "fabricbios.wire.fields"})
_OF_DOCUMENTS = frozenset({"test_generated.py"})  # these hold pages to the tables, not the codec to the spec
_OF_WIRE = {p.name for p in (ROOT / "tests/unit/wire").glob("test_*.py")} - _OF_DOCUMENTS
_WIRE_TESTS = tuple(sorted(f"tests/unit/wire/{name}" for name in _OF_WIRE))

_TOKEN_TESTS = ("tests/unit/core/test_token.py", "tests/unit/core/test_token_edges.py")


def tests_of(module: str) -> tuple[str, ...]:
    """Return the test files, the likeliest to notice first. The golden vectors go before all of them."""
    if module == "fabricbios.core.token":
        return (*_TOKEN_TESTS, "tests/unit/core/ops/test_capability.py")
    if module == "fabricbios.wire.token":
        return (*_TOKEN_TESTS, *_WIRE_TESTS)
    own = f"tests/unit/wire/test_{module.rpartition('.')[2]}.py"
    return tuple(sorted(_WIRE_TESTS, key=lambda path: path != own))
