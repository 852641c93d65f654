"""Whose file it is, and who else could have written it."""

import grp
import os
import pwd
from pathlib import Path

import pytest

from fabricbios.transport import writers

OWN_GROUP, SHARED_GROUP = 1000, 100


def user(name: str, uid: int, group: int) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, group, "", "/", "/bin/sh"))


def group(name: str, *members: str) -> grp.struct_group:
    return grp.struct_group((name, "x", 0, list(members)))


@pytest.fixture(autouse=True)
def databases(monkeypatch):
    groups = {OWN_GROUP: group("ann"), SHARED_GROUP: group("users", "ann", "bob")}
    ann = user("ann", os.geteuid(), OWN_GROUP)
    monkeypatch.setattr(writers.pwd, "getpwuid", lambda _: ann)
    monkeypatch.setattr(writers.pwd, "getpwall", lambda: [ann, user("bob", 4711, SHARED_GROUP)])
    monkeypatch.setattr(writers.grp, "getgrgid", groups.__getitem__)
    return groups


def found(path: Path, mode: int, gid: int, uid: int | None = None) -> os.stat_result:
    path.chmod(mode)
    fields = list(path.stat()[:10])
    fields[4], fields[5] = os.geteuid() if uid is None else uid, gid
    return os.stat_result(fields)


def test_a_group_of_ones_own_may_write(tmp_path):
    assert writers.objection(tmp_path, found(tmp_path, 0o775, OWN_GROUP)) == ""


def test_a_group_of_others_may_not(tmp_path, databases):
    for gid in (SHARED_GROUP, 4711):
        assert "can be written by others" in writers.objection(tmp_path, found(tmp_path, 0o775, gid))
    databases[OWN_GROUP] = group("ann", "bob")
    assert "chmod go-w" in writers.objection(tmp_path, found(tmp_path, 0o775, OWN_GROUP))


@pytest.mark.parametrize("listed", [True, False])
def test_a_group_that_is_others_first_group_may_not_though_it_names_nobody(tmp_path, databases, monkeypatch, listed):
    """As `users` is on many machines; a directory service may keep to itself who they are."""
    databases[SHARED_GROUP] = group("ann" if listed else "users")
    ann, bob = user("ann", os.geteuid(), SHARED_GROUP), user("bob", 4711, SHARED_GROUP)
    monkeypatch.setattr(writers.pwd, "getpwuid", lambda _: ann)
    monkeypatch.setattr(writers.pwd, "getpwall", lambda: [ann, bob] if listed else [ann])
    assert "can be written by others" in writers.objection(tmp_path, found(tmp_path, 0o775, SHARED_GROUP))


def test_everybody_may_not(tmp_path):
    assert "mode 0757" in writers.objection(tmp_path, found(tmp_path, 0o757, OWN_GROUP))


def test_what_another_user_owns_is_his(tmp_path):
    assert "belongs to user 4711" in writers.objection(tmp_path, found(tmp_path, 0o700, OWN_GROUP, 4711))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a sticky directory that is root's")
def test_a_sticky_directory_of_roots_will_do_where_each_file_is_looked_at(tmp_path):
    tmp_path.chmod(0o1777)
    assert writers.directory_objection(tmp_path, sticky=True) == ""
    assert "mode 1777" in writers.directory_objection(tmp_path)
