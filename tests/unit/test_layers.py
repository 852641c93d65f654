"""Each layer may import only what LAYERS allows. This table is the architecture (ARCHITECTURE.md)."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2] / "fabricbios"
LAYERS: dict[str, set[str]] = {
    "": set(),
    "wire": {""},
    "core": {"", "wire"},
    "hw": {""},
    "dataplane": {"", "wire", "hw"},
    "compute": {"", "wire", "hw"},
    "transport": {"", "wire"},
    "daemon": {"", "wire", "core", "hw", "dataplane", "compute", "transport", "simulation"},
    "client": {"", "wire", "transport"},
    "cli": {"", "wire", "client", "transport", "daemon"},
    "testing": {"", "wire", "core", "client", "transport", "daemon"},
    "simulation": {"", "wire", "core", "transport", "testing"},
}
ROLES_ONLY = {"simulation": {"daemon/simulate.py"}}  # layer -> the only modules outside it that may import it
WORLD = {
    "asyncio", "ctypes", "datetime", "fcntl", "mmap", "os", "random", "secrets", "select", "selectors",
    "signal", "socket", "subprocess", "threading", "time",
}  # fmt: skip
BANNED = {"": WORLD, "wire": WORLD, "core": WORLD, "simulation": WORLD - {"random"}}  # which makes sources of a seed


def imports(path: Path) -> set[str]:
    """Return the absolute names that a module imports."""
    package = ["fabricbios", *path.relative_to(ROOT).parent.parts]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{a.name}" for a in node.names}
    return found


def layer_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else path.stem if path.stem in LAYERS else ""


def allowed(path: Path, layer: str, target: str) -> bool:
    """Whether a module of `layer` may import from `target`."""
    here = path.relative_to(ROOT).as_posix()
    return target == layer or (target in LAYERS[layer] and here in ROLES_ONLY.get(target, {here}))


def violations() -> list[str]:
    bad = []
    for path in sorted(ROOT.rglob("*.py")):
        layer = layer_of(path)
        for name in imports(path):
            top, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if top == "fabricbios":
                wrong = not allowed(path, layer, target if target in LAYERS else "")
            else:
                wrong = top in BANNED.get(layer, ())
            if wrong:
                bad.append(f"{path.relative_to(ROOT)} imports {name}")
    return bad


def test_every_import_follows_the_table() -> None:
    assert violations() == []


def test_the_table_names_only_what_exists() -> None:
    here = {p.name if p.is_dir() else p.stem for p in ROOT.iterdir()}
    assert set(LAYERS) - {""} <= here | {"testing"}
