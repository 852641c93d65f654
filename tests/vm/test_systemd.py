"""systemd as PID 1, with units that notify and udev that fires: where the packaged daemon has to live."""

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.vm("systemd")

_NOTIFIER = """import time
from systemd import daemon
daemon.notify("READY=1\\nSTATUS=serving")
time.sleep(600)
"""


def _systemctl(*arguments: str) -> str:
    return subprocess.run(["systemctl", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_systemd_is_pid_1() -> None:
    assert Path("/proc/1/comm").read_text().strip() == "systemd"


def test_a_notify_unit_becomes_active_when_it_says_so(tmp_path: Path) -> None:
    script = tmp_path / "notifier.py"
    script.write_text(_NOTIFIER)
    unit = Path("/run/systemd/system/fbtest.service")
    unit.write_text(f"[Service]\nType=notify\nExecStart=/usr/bin/python3 {script}\nTimeoutStartSec=60\n")
    _systemctl("daemon-reload")
    try:
        _systemctl("start", unit.name)
        assert _systemctl("is-active", unit.name) == "active"
        assert _systemctl("show", "-P", "StatusText", unit.name) == "serving"
    finally:
        _systemctl("stop", unit.name)
        unit.unlink()


def test_udev_runs_rules() -> None:
    Path("/run/udev/rules.d").mkdir(parents=True, exist_ok=True)
    Path("/run/udev/rules.d/90-fbtest.rules").write_text(
        'SUBSYSTEM=="net", KERNEL=="fbdum0", RUN+="/bin/touch /run/fbtest-fired"\n'
    )
    subprocess.run(["udevadm", "control", "--reload"], check=True)
    subprocess.run(["ip", "link", "add", "fbdum0", "type", "dummy"], check=True)
    try:
        subprocess.run(["udevadm", "settle", "--exit-if-exists=/run/fbtest-fired"], check=True)
        assert Path("/run/fbtest-fired").exists()
    finally:
        subprocess.run(["ip", "link", "del", "fbdum0"], check=True)
