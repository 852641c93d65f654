"""A machine that loses its power in the middle of a test, and goes on with it after the boot.

`pytest.mark.vm("reboot")` gives a test that machine: a reset boots it again, and its disks keep what they had. A cut
is a reset without a sync: what only the page cache knew is lost. Pytest starts from the beginning each time, so what
a test wants to know from before the cut it has to have kept.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

PLACE = Path("/mnt/kept")
_FACTS = PLACE / "facts.json"
_BOOTS = PLACE / "boots"


def disk_by_serial(serial: str) -> str:
    """Return the whole disk with this serial number, of virtio or NVMe; not the hidden path below a multipath disk."""
    for attribute in (*Path("/sys/block").glob("vd*/serial"), *Path("/sys/block").glob("nvme*n*/device/serial")):
        hidden = Path("/sys/block").joinpath(attribute.parts[3], "hidden").read_text().strip() == "1"
        if not hidden and attribute.read_text().strip() == serial:
            return f"/dev/{attribute.parts[3]}"
    raise FileNotFoundError(f"no disk has the serial number {serial}")


def facts() -> dict[str, Any] | None:
    """Mount what is kept at PLACE; return what was kept before the cut, None before there was one."""
    disk = disk_by_serial("vmtest-disk")
    if subprocess.run(["blkid", disk], capture_output=True).returncode:
        subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    PLACE.mkdir(exist_ok=True)
    if not PLACE.is_mount():
        subprocess.run(["mount", disk, PLACE], check=True)
    _BOOTS.write_text((_BOOTS.read_text() if _BOOTS.exists() else "") + "x")
    assert len(_BOOTS.read_text()) <= 2, "this machine resets by itself"
    return json.loads(_FACTS.read_text()) if _FACTS.exists() else None


def cut_power(kept: dict[str, Any]) -> None:
    """Keep these facts, and nothing else that is not on the disk already. Never returns."""
    for path, text in ((_FACTS, json.dumps(kept)), (_BOOTS, _BOOTS.read_text())):
        with path.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    fd = os.open(PLACE, os.O_RDONLY)
    os.fsync(fd)
    Path("/proc/sysrq-trigger").write_text("b")
