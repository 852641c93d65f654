"""The state directory is ours alone, or the daemon does not start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fabricbios.daemon.statedir import StateDir
from fabricbios.errors import ConfigError


def test_it_is_made_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    state = StateDir(tmp_path)
    state.acquire()
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    state.release()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_one_of_another_user_is_refused_and_left_unlocked(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(ConfigError, match=rf"belongs to user 12345: chown 0 {tmp_path}"):
        StateDir(tmp_path).acquire()
    os.chown(tmp_path, 0, -1)
    state = StateDir(tmp_path)
    state.acquire()
    state.release()
