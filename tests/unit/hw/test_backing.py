"""What is in use or has data on it is refused; what is wiped reads as zeros; what is gone says so."""

import errno
import fcntl
import os
import shutil
import subprocess
import threading

import pytest
from descriptors import open_descriptors
from facilities import require

from fabricbios.errors import ConfigError
from fabricbios.hw import backing
from fabricbios.hw.backing import GRANULE, open_backing
from fabricbios.hw.sysfs import Sysfs

FS = Sysfs("/")
EXT = bytes(1080) + b"\x53\xef"


@pytest.fixture
def opened():
    """Open backings that are closed again."""
    held = []

    def opener(path, size=None, **options):
        held.append(open_backing(FS, str(path), size, **options))
        return held[-1]

    yield opener
    for one in held:
        one.close()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "store"
    path.write_bytes(bytes(4 * GRANULE))
    return path


@pytest.fixture
def loop(file):
    """A loop device on a file of its own."""
    if os.geteuid() or not shutil.which("losetup"):
        require("loop", False, "losetup wants root")
    made = subprocess.run(["losetup", "--find", "--show", str(file)], capture_output=True, text=True)
    require("loop", made.returncode == 0, f"losetup: {made.stderr.strip()}")
    yield made.stdout.strip()
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


def content(store, base=0, length=None):
    return os.pread(store.fd, store.size if length is None else length, base)


def test_a_blank_file_is_taken_whole(opened, file):
    store = opened(file)
    assert (store.size, store.name, store.is_device, store.overridden) == (4 * GRANULE, str(file), False, ())


def test_size_takes_the_beginning_in_whole_granules(opened, file):
    assert opened(file, 2 * GRANULE + 5).size == 2 * GRANULE


def test_a_missing_file_is_made_only_if_a_size_is_given(opened, tmp_path):
    with pytest.raises(ConfigError, match="PATH:SIZE"):
        opened(tmp_path / "new")
    store = opened(tmp_path / "new", 2 * GRANULE)
    assert os.stat(store.path).st_size == 2 * GRANULE
    assert os.stat(store.path).st_blocks * 512 >= 2 * GRANULE
    assert os.stat(store.path).st_mode & 0o777 == 0o600


def test_no_room_for_a_new_file_is_said_clearly_and_leaves_nothing(opened, tmp_path):
    with pytest.raises(OSError, match="cannot reserve the space") as caught:
        opened(tmp_path / "new", 1 << 60)
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
    assert caught.value.filename == str(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_size_beyond_what_is_there_is_refused(opened, file):
    with pytest.raises(ConfigError, match="give a smaller SIZE"):
        opened(file, 5 * GRANULE)


def test_less_than_a_granule_is_refused(opened, tmp_path):
    (tmp_path / "small").write_bytes(bytes(GRANULE - 1))
    with pytest.raises(ConfigError, match="smallest extent"):
        opened(tmp_path / "small")


@pytest.mark.parametrize("what", ["directory", "fifo", "character device"])
def test_what_is_neither_file_nor_device_is_refused_at_once(opened, tmp_path, what):
    path = {"directory": tmp_path, "fifo": tmp_path / "fifo", "character device": "/dev/null"}[what]
    if what == "fifo":
        os.mkfifo(path)
    with pytest.raises(ConfigError, match="neither a file nor a block device"):
        opened(path)


def test_a_signature_is_refused_unless_forced_by_name(opened, file):
    with file.open("r+b") as f:
        f.write(EXT)
    with pytest.raises(ConfigError, match=r"has data on it \(ext\).*wipefs.*block_force"):
        opened(file)
    assert opened(file, force=True).overridden == ("ext signature",)


def test_a_store_that_is_ours_may_have_a_holders_file_system_on_it(opened, file):
    identity = open_backing(FS, str(file), None)
    identity.close()
    with file.open("r+b") as f:
        f.write(EXT)
    assert opened(file, ours={identity.identity}).overridden == ()


def test_another_file_under_the_same_name_is_not_ours(opened, file):
    first = opened(file)
    file.rename(file.with_suffix(".old"))
    file.write_bytes(EXT + bytes(GRANULE))
    with pytest.raises(ConfigError, match="has data on it"):
        opened(file, ours={first.identity})


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(backing, "PATIENCE", 0.05)


def test_what_a_killed_daemon_left_behind_is_waited_for(opened, file):
    with file.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        threading.Timer(0.1, fcntl.flock, (other.fileno(), fcntl.LOCK_UN)).start()
        assert opened(file).size == 4 * GRANULE


def test_a_second_daemon_is_kept_out_also_by_force(opened, file, impatient):
    with file.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="locked by another process"):
            opened(file, force=True)


def test_refusing_leaks_no_descriptor(file):
    with file.open("r+b") as f:
        f.write(EXT)
    before = open_descriptors()
    with pytest.raises(ConfigError):
        open_backing(FS, str(file), None)
    assert open_descriptors() <= before


def test_a_device_that_is_not_there_is_not_made_as_a_file(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(backing, "DEVICES", tmp_path)
    with pytest.raises(ConfigError, match="no such device"):
        opened(tmp_path / "disk" / ".." / "sdz", 4 * GRANULE)
    assert not (tmp_path / "sdz").exists()


@pytest.mark.parametrize("how", ["zero", "discard"])
@pytest.mark.parametrize("offered", [True, False])
def test_wiping_reads_as_zeros_and_touches_nothing_else(opened, file, how, offered, monkeypatch):
    file.write_bytes(b"\xaa" * 4 * GRANULE)
    store = opened(file, force=True)
    if not offered:  # a file system without fallocate's modes
        monkeypatch.setattr(store, "_fallocate", lambda *_: False)
    store.wipe(GRANULE, 2 * GRANULE, how)
    assert content(store) == b"\xaa" * GRANULE + bytes(2 * GRANULE) + b"\xaa" * GRANULE
    assert os.fstat(store.fd).st_size == 4 * GRANULE


def test_discard_gives_the_space_back_and_reserve_takes_it_again(opened, file):
    store = opened(file)
    store.wipe(0, 4 * GRANULE, "discard")
    if os.fstat(store.fd).st_blocks * 512 >= 4 * GRANULE:
        pytest.skip("this file system punches no holes")
    store.reserve(0, 2 * GRANULE)
    assert os.fstat(store.fd).st_blocks * 512 >= 2 * GRANULE


def test_zeroing_ends_where_it_has_to_and_where_the_time_is_over(opened, file, monkeypatch):
    monkeypatch.setattr(backing, "_FIRST_STEP", GRANULE)
    file.write_bytes(b"\xaa" * 4 * GRANULE)
    store = opened(file, force=True)
    assert store.zero(GRANULE, 3 * GRANULE, 60) == 3 * GRANULE
    assert content(store) == b"\xaa" * GRANULE + bytes(2 * GRANULE) + b"\xaa" * GRANULE
    assert store.zero(0, 4 * GRANULE, 0) == 0
    assert content(store, 0, GRANULE) == b"\xaa" * GRANULE


@pytest.mark.parametrize("how", ["zero", "discard"])
def test_a_full_file_system_is_wiped_by_a_hole(opened, file, how, monkeypatch):
    file.write_bytes(b"\xaa" * 4 * GRANULE)
    store = opened(file, force=True)
    real = store._fallocate

    def full(mode, base, length):
        if mode == backing.FALLOC_FL_ZERO_RANGE:
            raise OSError(errno.ENOSPC, "no space left")
        return real(mode, base, length)

    monkeypatch.setattr(store, "_fallocate", full)
    store.wipe(0, 2 * GRANULE, how)
    assert content(store) == bytes(2 * GRANULE) + b"\xaa" * 2 * GRANULE


def test_wipe_none_leaves_the_bytes(opened, file):
    file.write_bytes(b"\xaa" * GRANULE)
    store = opened(file, force=True)
    store.wipe(0, GRANULE, "none")
    assert content(store) == b"\xaa" * GRANULE


@pytest.mark.parametrize("call", [lambda s: s.wipe(0, GRANULE, "zero"), lambda s: s.wipe(0, GRANULE, "none"),
                                  lambda s: s.reserve(0, GRANULE), lambda s: s.check()])  # fmt: skip
def test_a_file_that_was_cut_short_is_an_oserror_and_not_made_longer(opened, file, call):
    store = opened(file)
    os.truncate(file, GRANULE)
    with pytest.raises(OSError, match="truncated"):
        call(store)
    assert file.stat().st_size == GRANULE


def test_a_file_that_was_deleted_is_an_oserror(opened, file):
    store = opened(file)
    file.unlink()
    with pytest.raises(OSError, match="deleted"):
        store.check()


def test_a_write_error_while_wiping_is_not_swallowed(opened, file, monkeypatch):
    store = opened(file)
    monkeypatch.setattr(backing._libc, "fallocate", lambda *_: -1)
    monkeypatch.setattr(backing.ctypes, "get_errno", lambda: errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        store.wipe(0, GRANULE, "zero")


def test_a_block_device(opened, loop, file):
    store = opened(loop)
    assert (store.is_device, store.size) == (True, 4 * GRANULE)
    os.pwrite(store.fd, b"\xaa" * 4096, GRANULE)
    for how in ("zero", "discard"):
        store.wipe(GRANULE, GRANULE, how)
        assert content(store, GRANULE, 4096) == bytes(4096)
    with pytest.raises(OSError, match="busy"):
        os.open(loop, os.O_RDWR | os.O_EXCL)  # nobody mounts it while we have it


def test_a_device_that_somebody_holds_is_refused_unless_forced(opened, loop, impatient):
    holder = os.open(loop, os.O_RDWR | os.O_EXCL)
    try:
        with pytest.raises(ConfigError, match="is in use"):
            opened(loop)
        assert opened(loop, force=True).is_device
    finally:
        os.close(holder)


def test_a_file_under_a_loop_device_is_refused(opened, loop, file):
    with pytest.raises(ConfigError, match=f"under {loop}"):
        opened(file)


def test_a_device_with_a_signature_is_refused(opened, loop):
    fd = os.open(loop, os.O_RDWR)
    os.pwrite(fd, EXT[1024:], 1024)
    os.close(fd)
    with pytest.raises(ConfigError, match="has data on it"):
        opened(loop)
