"""What tells a file or device from another at the same path."""

import pytest
from facilities import require

from fabricbios.hw import standing
from fabricbios.hw.sysfs import Sysfs

FS = Sysfs("/")


def test_a_file_made_anew_is_another_though_it_may_get_the_inode_of_the_last(tmp_path):
    """On the file system of the tests, which has to tell generations for this."""
    file = tmp_path / "store"
    file.write_bytes(bytes(4096))
    before = standing.standing_at(FS, str(file))
    size = file.stat().st_size
    file.unlink()
    file.write_bytes(bytes(size))
    after = standing.standing_at(FS, str(file))
    assert before.name == after.name
    require("inode generations", before.generation != 0, "this file system tells none (FS_IOC_GETVERSION)")
    assert not standing.is_same(before[1:], after[1:])


def test_a_device_node_without_a_device_is_absent(tmp_path, monkeypatch):
    class Nothing(Sysfs):
        def link(self, path):
            return ""

    monkeypatch.setattr(standing.stat, "S_ISBLK", lambda _: True)
    (tmp_path / "node").touch()
    with pytest.raises(OSError, match="No such device or address"):
        standing.standing_at(Nothing("/"), str(tmp_path / "node"))
