"""vmtest/bytecode: only what changed is compiled again."""

import os
from pathlib import Path

import pytest

from vmtest import bytecode


def test_only_stale_sources_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bytecode, "PROJECT", tmp_path)
    source = tmp_path / "tests/a.py"
    source.parent.mkdir()
    source.write_text("")
    layer = tmp_path / "layer"
    target = layer / "tests/__pycache__/a.cpython-313.pyc"
    assert bytecode._stale(layer, "cpython-313") == [f"{source}\t{target}\t/project/tests/a.py\n"]
    target.parent.mkdir(parents=True)
    target.write_bytes(b"")
    assert bytecode._stale(layer, "cpython-313") == []
    os.utime(target, (0, 0))
    assert len(bytecode._stale(layer, "cpython-313")) == 1
