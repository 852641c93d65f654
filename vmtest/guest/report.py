"""pytest plugin of the guest: each report as one JSON line to the host, as soon as it stands.

A line holds one of: {"start": nodeid}, {"report": pytest's own serialised TestReport},
{"collect": nodeid, "error": text} where a module could not even be imported.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

_PORT = "vmtest.report"


def port_device() -> str:
    """Return the port's device by its name in sysfs: without udev there is no link in /dev/virtio-ports."""
    for path in Path("/sys/class/virtio-ports").iterdir():
        if (path / "name").read_text().strip() == _PORT:
            return f"/dev/{path.name}"
    raise FileNotFoundError(f"no virtio port named {_PORT}")


class Reporter:
    """Writes lines straight to the port: what was written survives a panic that follows."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.port = os.open(port_device(), os.O_WRONLY)

    def _say(self, **line: Any) -> None:
        data = json.dumps(line, default=str).encode() + b"\n"
        while data:
            data = data[os.write(self.port, data) :]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._say(start=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._say(report=self.config.hook.pytest_report_to_serializable(config=self.config, report=report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._say(collect=report.nodeid, error=str(report.longrepr))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Reporter(config), "vmtest-reporter")
