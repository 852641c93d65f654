"""Whom the commands of this machine believe that they speak for the node."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from fabricbios.daemon.admin import NAME
from fabricbios.daemon.admin_client import AdminClient, NoNodeHere
from fabricbios.errors import ConfigError


def listening(directory: Path, user: int = -1) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(directory / NAME))
    us = os.geteuid()
    try:
        if user >= 0:
            os.seteuid(user)
        sock.listen(1)  # whose it is: SO_PEERCRED says who called this
    finally:
        os.seteuid(us)
    return sock


def test_ours_is_believed(tmp_path: Path) -> None:
    with listening(tmp_path), AdminClient(tmp_path):
        pass


def test_a_directory_in_which_others_may_put_a_socket_is_not(tmp_path: Path) -> None:
    with listening(tmp_path):
        tmp_path.chmod(0o1777)
        with pytest.raises(ConfigError, match=rf"{tmp_path} can be written by others \(mode 1777\)"):
            AdminClient(tmp_path).__enter__()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_another_users_is_not(tmp_path: Path) -> None:
    with listening(tmp_path, user=12345), pytest.raises(ConfigError, match="is answered by user 12345"):
        AdminClient(tmp_path).__enter__()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")
def test_that_of_the_directorys_owner_is_believed(tmp_path: Path) -> None:
    with listening(tmp_path, user=12345):
        os.chown(tmp_path, 12345, -1)
        with AdminClient(tmp_path):
            pass


def test_nobody_is_nobody(tmp_path: Path) -> None:
    with pytest.raises(NoNodeHere):
        AdminClient(tmp_path).__enter__()
