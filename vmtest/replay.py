"""pytest plugin of the host: items marked `vm` run inside the machine, and their reports are replayed here.

One boot a profile (`@pytest.mark.vm("systemd")`, `@pytest.mark.vm(kernel="6.1")`; "plain" without an argument) runs
all of its items. An item without a report (the guest panicked, hung, or could not import it) fails with the reason and
the console's tail. A machine is booted only where it was asked for: the command line names tests/vm,
FABRICBIOS_REQUIRE names vm, or FABRICBIOS_VM is set (run them where they can be had).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from typing import Any

import pytest

from vmtest import Unavailable, boot

IN_GUEST = "FABRICBIOS_IN_VM" in os.environ
_TAIL = 4000  # characters of console shown with a failure


def profile_of(item: pytest.Item) -> str:
    """Return the profile of the machine that `item` wants."""
    marker = item.get_closest_marker("vm")
    assert marker is not None
    return marker.args[0] if marker.args else marker.kwargs.get("kernel", "plain")


def asked_for(config: pytest.Config) -> bool:
    """Say whether this run may boot machines: it takes minutes, so plain pytest does not."""
    named = any("tests/vm" in argument.replace(os.sep, "/") for argument in config.args)
    required = "vm" in os.environ.get("FABRICBIOS_REQUIRE", "").split(",")
    return named or required or bool(os.environ.get("FABRICBIOS_VM"))


def restored(data: dict[str, Any]) -> dict[str, Any]:
    """Give a skip its reason back as the tuple that pytest's summary insists on: JSON has none."""
    skipped = data["outcome"] == "skipped" and isinstance(data["longrepr"], list)
    return data | {"longrepr": tuple(data["longrepr"])} if skipped else data


class Results:
    """What one boot said about its items."""

    def __init__(self, ended: boot.Ended) -> None:
        self.reports: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.errors: list[str] = []
        self.running = ""
        for line in ended.report:
            self._read(line)
        self.ended = ended

    def _read(self, text: str) -> None:
        """The last line of a guest that died may be cut short: what it was about has no report then."""
        with contextlib.suppress(json.JSONDecodeError):
            self._take(json.loads(text))

    def _take(self, line: dict[str, Any]) -> None:
        if "start" in line:
            self.running = line["start"]
        elif "report" in line:
            self.reports[line["report"]["nodeid"]].append(line["report"])
        else:
            self.errors.append(f"{line['collect']}: {line['error']}")

    def finished(self, nodeid: str) -> bool:
        """Say whether the last phase of an item was reported."""
        return any(report["when"] == "teardown" for report in self.reports.get(nodeid, ()))

    def why_not(self, nodeid: str) -> str:
        """Say why an item has no complete report."""
        if self.ended.timed_out:
            end = f"the machine was still running after {boot.LIMIT} s"
        else:
            end = f"the machine ended with {'no status (a panic?)' if self.ended.status is None else self.ended.status}"
        where = "while this ran" if self.running == nodeid else f"before this ran (last: {self.running or 'nothing'})"
        errors = "".join(error + "\n" for error in self.errors)
        return f"{end} {where}\n{errors}--- end of the console\n{self.ended.console[-_TAIL:]}"


class Replay:
    """The host's side: boots lazily, replays, and leaves what cannot be replayed to fail in its set-up."""

    def __init__(self) -> None:
        self.results: dict[str, Results] = {}
        self.unavailable = ""

    def _ensure_ran(self, item: pytest.Item) -> Results | None:
        profile = profile_of(item)
        if not self.unavailable and profile not in self.results:
            items = [i.nodeid for i in item.session.items if i.get_closest_marker("vm") and profile_of(i) == profile]
            try:
                self.results[profile] = Results(boot.boot(profile, "tests", "".join(i + "\n" for i in items)))
            except Unavailable as error:
                self.unavailable = str(error)
        return self.results.get(profile)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """A boot counts into the time of the item that caused it: the machine has a limit of its own."""
        for item in items:
            if item.get_closest_marker("vm"):
                item.add_marker(pytest.mark.timeout(0))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Replay the guest's reports for an item of the machine; None lets pytest go on by itself."""
        if not item.get_closest_marker("vm") or not asked_for(item.config):
            return None
        results = self._ensure_ran(item)
        if results is None or not results.finished(item.nodeid):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for data in results.reports[item.nodeid]:
            report = item.config.hook.pytest_report_from_serializable(config=item.config, data=restored(data))
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def why_not(self, item: pytest.Item) -> tuple[bool, str]:
        """Return whether the machine was there at all, and why `item` was not replayed."""
        if not asked_for(item.config):
            return False, "booting it was not asked for (FABRICBIOS_VM=1, or `pytest tests/vm`)"
        results = self.results.get(profile_of(item))
        return (True, results.why_not(item.nodeid)) if results else (False, self.unavailable)
