"""What `fabricbios top` shows fits the terminal that people have."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fabricbios.cli import top

LEASE = {
    "lease_id": "0x" + "ab" * 16, "kind": "block", "binding": "nvmeof", "state": "warned", "size": 1023 << 20,
    "reads_per_sec": 123456.0, "writes_per_sec": 123456.0, "bytes_per_sec": 1023.5 * (1 << 20), "rejects_per_sec": 9.0,
    "totals": {"reads": 1}, "expires_at": 0,
}  # fmt: skip


@pytest.mark.parametrize(("width", "shown"), [(80, ("0xababab ",)), (100, ("0xabababababab ", "nvmeof"))])
def test_a_lease_is_whole_at_any_usual_width(width: int, shown: tuple[str, ...]) -> None:
    doc = {"node_id": "0x00", "planes": [], "leases": [LEASE], "left_out": 0}
    console = Console(width=width, file=io.StringIO())
    console.print(top._screen(doc, console.width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\u2026" not in text
    assert all(word in text for word in (*shown, "block", "warned", "123,456", "1023 MiB", "rejects/s", "ends in"))
