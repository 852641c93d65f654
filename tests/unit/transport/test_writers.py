"""Whose file it is, and who else could have written it."""

import os
from pathlib import Path

import pytest

from fabricbios.transport import writers

OWN_GROUP, SHARED_GROUP = 1000, 100


class _User:
    pw_name, pw_gid = "ann", OWN_GROUP


class _Group:
    def __init__(self, *members: str) -> None:
        self.gr_mem = list(members)


@pytest.fixture(autouse=True)
def databases(monkeypatch):
    groups = {OWN_GROUP: _Group(), SHARED_GROUP: _Group("ann", "bob")}
    monkeypatch.setattr(writers.pwd, "getpwuid", lambda _: _User)
    monkeypatch.setattr(writers.grp, "getgrgid", groups.__getitem__)
    return groups


def found(path: Path, mode: int, group: int, uid: int | None = None) -> os.stat_result:
    path.chmod(mode)
    fields = list(path.stat()[:10])
    fields[4], fields[5] = os.geteuid() if uid is None else uid, group
    return os.stat_result(fields)


def test_a_group_of_ones_own_may_write(tmp_path):
    assert writers.objection(tmp_path, found(tmp_path, 0o775, OWN_GROUP)) == ""


def test_a_group_of_others_may_not(tmp_path, databases):
    for group in (SHARED_GROUP, 4711):
        assert "can be written by others" in writers.objection(tmp_path, found(tmp_path, 0o775, group))
    databases[OWN_GROUP] = _Group("bob")
    assert "chmod go-w" in writers.objection(tmp_path, found(tmp_path, 0o775, OWN_GROUP))


def test_everybody_may_not(tmp_path):
    assert "mode 0757" in writers.objection(tmp_path, found(tmp_path, 0o757, OWN_GROUP))


def test_what_another_user_owns_is_his(tmp_path):
    assert "belongs to user 4711" in writers.objection(tmp_path, found(tmp_path, 0o700, OWN_GROUP, 4711))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a sticky directory that is root's")
def test_a_sticky_directory_of_roots_will_do_where_each_file_is_looked_at(tmp_path):
    tmp_path.chmod(0o1777)
    assert writers.directory_objection(tmp_path, sticky=True) == ""
    assert "mode 1777" in writers.directory_objection(tmp_path)
