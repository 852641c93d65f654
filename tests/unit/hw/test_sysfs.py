"""One place decides what a missing, unreadable or malformed file means."""

import os

import pytest

from fabricbios.hw.sysfs import MAX_FILE, human_order, index_list, to_int


def test_missing_things_are_empty_and_not_worth_a_word(tree):
    fs = tree.fs
    assert (fs.text("/no"), fs.number("/no"), fs.names("/no"), fs.link("/no"), fs.resolve("/no")) == (
        "",
        None,
        (),
        "",
        "",
    )
    assert fs.unreadable == {}


def test_what_exists_and_will_not_be_read_is_remembered(tree):
    tree.directory("/sys/thing")
    fs = tree.fs
    assert fs.text("/sys/thing") == ""  # EISDIR: stands in for EACCES and EIO, which root does not meet on a tmpfs
    assert fs.unreadable == {"/sys/thing": "Is a directory"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission_is_remembered(tree):
    tree.put("/sys/secret", "x").chmod(0)
    fs = tree.fs
    assert fs.text("/sys/secret") == ""
    assert fs.unreadable == {"/sys/secret": "Permission denied"}


def test_a_huge_file_is_read_to_a_bound_only(tree):
    tree.put("/proc/huge", b"x" * (MAX_FILE + 1))
    assert len(tree.fs.data("/proc/huge")) == MAX_FILE


def test_text_loses_the_nul_of_device_tree_strings(tree):
    tree.put("/proc/device-tree/model", b"Raspberry Pi 5 Model B\0")
    assert tree.fs.text("/proc/device-tree/model") == "Raspberry Pi 5 Model B"


def test_bytes_that_are_no_text_do_not_raise(tree):
    tree.put("/sys/model", b"\xff\xfeDISK")
    assert "DISK" in tree.fs.text("/sys/model")


@pytest.mark.parametrize(
    ("text", "base", "value"),
    [("42", 10, 42), ("-1", 10, -1), ("0x10de", 16, 0x10DE), ("10de", 16, 0x10DE), ("", 10, None), ("N/A", 10, None),
     ("1_000", 10, None), ("12ab", 10, None), ("9" * 5000, 10, None), ("٣", 10, None), ("1 2", 10, None)],
)  # fmt: skip
def test_numbers(text, base, value):
    assert to_int(text, base) == value


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0-3,8", (0, 1, 2, 3, 8)),
        ("", ()),
        ("5", (5,)),
        ("0-", ()),
        ("0-99999999", ()),
        ("3-1", ()),
        ("a", ()),
        ("0,0", (0,)),
    ],
)
def test_index_lists(text, numbers):
    assert index_list(text) == numbers


def test_a_list_of_a_million_cpus_costs_nothing():
    assert index_list("0-999999") == ()


def test_human_order():
    assert sorted(["cpu10", "cpu2", "cpu1"], key=human_order) == ["cpu1", "cpu2", "cpu10"]


def test_resolve_stays_below_the_root(tree):
    tree.directory("/sys/devices/a")
    tree.link("/sys/class/a", "/sys/devices/a")
    (tree.root / "sys/class/out").symlink_to("/etc/passwd")
    assert tree.fs.resolve("/sys/class/a") == "/sys/devices/a"
    assert tree.fs.resolve("/sys/class/out") == ""
