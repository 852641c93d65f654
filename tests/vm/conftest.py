"""Items of this folder run inside the QEMU test machine (vmtest); on the host their reports are replayed.

Mark a module `pytestmark = pytest.mark.vm`, or name another machine (docs/testing.md): `pytest.mark.vm("systemd")`,
`pytest.mark.vm(kernel="6.1")`. Import what only the guest has inside the tests: the host collects these files too.
"""

from __future__ import annotations

import pytest
from facilities import require

from vmtest.replay import IN_GUEST, Replay

_REPLAY = pytest.StashKey[Replay]()


def pytest_configure(config: pytest.Config) -> None:
    if not IN_GUEST:
        config.stash[_REPLAY] = Replay()
        config.pluginmanager.register(config.stash[_REPLAY], "vmtest-replay")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """On the host only what could not be replayed comes here: skip it, or fail it if the guest died."""
    if IN_GUEST or not item.get_closest_marker("vm"):
        return
    ran, why = item.config.stash[_REPLAY].why_not(item)
    if ran:
        pytest.fail(why, pytrace=False)
    require("vm", False, why)
