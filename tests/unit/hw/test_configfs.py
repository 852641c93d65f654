"""hw/configfs: what is there is no error, everything else keeps errno and path."""

import errno
from pathlib import Path

import pytest

from fabricbios.hw.configfs import Configfs


def test_making_and_removing_say_whether_they_did(tmp_path: Path) -> None:
    fs = Configfs(tmp_path)
    assert [fs.mkdir("a"), fs.mkdir("a")] == [True, False]
    assert [fs.link("b", "a"), fs.link("b", "a")] == [True, False]
    assert [fs.unlink("b"), fs.unlink("b")] == [True, False]
    assert [fs.rmdir("a"), fs.rmdir("a")] == [True, False]


def test_a_busy_object_keeps_errno_and_path(tmp_path: Path) -> None:
    fs = Configfs(tmp_path)
    fs.mkdir("a")
    fs.mkdir("a/b")
    with pytest.raises(OSError, match="a") as caught:
        fs.rmdir("a")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOTEMPTY, str(tmp_path / "a"))


def test_a_refused_value_names_the_file_and_not_the_value(tmp_path: Path) -> None:
    fs = Configfs(tmp_path)
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match="full") as caught:
        fs.write("full", "secret")
    assert caught.value.errno == errno.ENOSPC
    assert "secret" not in str(caught.value)


def test_a_missing_directory_has_no_names(tmp_path: Path) -> None:
    fs = Configfs(tmp_path)
    assert fs.names("nothing") == ()
    assert not fs.exists("nothing")
