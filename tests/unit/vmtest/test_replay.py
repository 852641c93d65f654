"""vmtest/replay: what the guest said, and what is said of an item of which it said nothing."""

import json
from typing import Any

import pytest

from vmtest.boot import Ended, profiles
from vmtest.replay import Results, asked_for, profile_of, restored


def report(nodeid: str, when: str = "teardown") -> str:
    return json.dumps({"report": {"nodeid": nodeid, "when": when, "outcome": "passed"}})


def results(*lines: str, status: int | None = 0, timed_out: bool = False) -> Results:
    return Results(Ended(status, list(lines), "Kernel panic - not syncing", timed_out))


def test_an_item_is_finished_with_its_teardown() -> None:
    said = results(report("a", "setup"), report("a", "call"), report("a"), report("b", "setup"))
    assert said.finished("a")
    assert not said.finished("b")
    assert not said.finished("c")


def test_a_panic_names_the_item_that_ran_and_shows_the_console() -> None:
    said = results(report("a"), json.dumps({"start": "b"}), status=None)
    assert "a panic?) while this ran" in said.why_not("b")
    assert "before this ran (last: b)" in said.why_not("c")
    assert "Kernel panic" in said.why_not("c")


def test_a_machine_that_never_ends_says_so() -> None:
    assert "still running" in results(status=None, timed_out=True).why_not("a")


def test_a_module_that_cannot_be_imported_is_named() -> None:
    said = results(json.dumps({"collect": "tests/vm/test_x.py", "error": "ImportError: y"}), status=2)
    assert "tests/vm/test_x.py: ImportError: y" in said.why_not("tests/vm/test_x.py::test_z")


def test_a_line_that_the_death_of_the_guest_cut_is_dropped() -> None:
    assert results(report("a"), report("b")[:20], status=None).finished("a")


def test_a_skip_inside_is_a_skip_outside() -> None:
    skipped = json.loads(json.dumps({"outcome": "skipped", "longrepr": ("file", 7, "Skipped: why")}))
    assert restored(skipped)["longrepr"] == ("file", 7, "Skipped: why")
    failed = {"outcome": "failed", "longrepr": "text"}
    assert restored(failed) == failed


@pytest.mark.parametrize(
    ("args", "environment", "asked"),
    [
        (["tests"], {}, False),
        (["tests/vm/test_nvmeof.py"], {}, True),
        (["tests"], {"FABRICBIOS_REQUIRE": "netns,vm"}, True),
        (["tests"], {"FABRICBIOS_REQUIRE": "netns"}, False),
        (["tests"], {"FABRICBIOS_VM": "1"}, True),
    ],
)
def test_a_machine_is_booted_only_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, args: list[str], environment: dict[str, str], asked: bool
) -> None:
    class Config:
        pass

    config: Any = Config()
    config.args = args
    for name in ("FABRICBIOS_REQUIRE", "FABRICBIOS_VM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert asked_for(config) is asked


@pytest.mark.parametrize(
    ("mark", "profile"),
    [
        (pytest.mark.vm, "plain"),
        (pytest.mark.vm("reboot"), "reboot"),
        (pytest.mark.vm("systemd"), "systemd"),
        (pytest.mark.vm(kernel="6.1"), "6.1"),
    ],
)
def test_a_marker_names_its_machine(mark: pytest.MarkDecorator, profile: str) -> None:
    class Item:
        def get_closest_marker(self, _: str) -> pytest.Mark:
            return mark.mark

    item: Any = Item()
    assert profile_of(item) == profile
    assert profile in profiles()
