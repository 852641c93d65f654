"""vmtest's parts: archive, lists, sources, exit statuses."""

import lzma
import os
import subprocess
from pathlib import Path

import pytest

from vmtest import Unavailable, apt, boot, build, cpio, kernel, qemu
from vmtest.__main__ import _tested_on


def test_the_archive_is_aligned_and_ends() -> None:
    data = cpio.archive(("dev",), {"init": b"#!x", "bin/y": b"12345"})
    assert data.startswith(b"070701")
    assert len(data) % 4 == 0
    assert data.count(b"070701") == 4, "a directory, two files, the trailer"
    assert b"TRAILER!!!\0" in data
    header = data[data.index(b"bin/y") - 110 : data.index(b"bin/y")]
    assert int(header[54:62], 16) == 5, "c_filesize of newc"


def test_list_files_have_names_and_comments(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("# why\n a \n\nb # because\n")
    assert build.names_in(tmp_path / "list") == ["a", "b"]


def test_the_key_follows_the_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.key()
    assert build.key() == before
    monkeypatch.setattr(build, "requirements", lambda: ["something else"])
    assert build.key() != before


def test_the_mirror_is_the_hosts_own(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = "http://security.invalid/ here-security\nhttp://mirror.invalid/debian/ here\n"
    monkeypatch.setattr(apt, "host_codename", lambda: "here")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, stdout=answer, stderr=""))
    assert apt.host_mirror() == "http://mirror.invalid/debian"
    monkeypatch.setattr(apt, "host_codename", lambda: "elsewhere")
    with pytest.raises(Unavailable, match="elsewhere"):
        apt.host_mirror()


def test_a_kernel_is_found_behind_its_stub(tmp_path: Path) -> None:
    elf = b"\x7fELF" + bytes(100)
    (tmp_path / "bzImage").write_bytes(b"stub" * 100 + lzma.compress(elf, check=lzma.CHECK_CRC32) + b"tail")
    kernel.unpack_vmlinux(tmp_path / "bzImage", tmp_path / "vmlinux")
    assert (tmp_path / "vmlinux").read_bytes() == elf
    (tmp_path / "bzImage").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no compressed"):
        kernel.unpack_vmlinux(tmp_path / "bzImage", tmp_path / "vmlinux")


@pytest.mark.parametrize(("code", "status"), [(1, 0), (3, 1), (0, None), (124, None), (-9, None), (255, 127)])
def test_the_guests_status_is_told_from_qemus(code: int, status: int | None) -> None:
    assert boot._guest_status(code) == status


@pytest.mark.skipif(bool(qemu.missing()), reason=f"qemu: {qemu.missing()}")
def test_the_accelerator_probe_runs_instructions() -> None:
    assert qemu.executes("tcg")
    assert not qemu.executes("no-such-accelerator")


def test_without_root_and_machine_the_reason_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "CACHE", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unavailable, match="geteuid"):
        build.machine()


@pytest.mark.parametrize("profile", boot.profiles())
def test_a_reset_ends_every_machine_but_the_one_that_is_for_it(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot.bytecode, "layer", lambda *_: tmp_path)
    machine = build.Machine(*(tmp_path / part for part in build.Machine._fields))
    command = boot._command(machine, boot._PROFILES[profile], tmp_path, "tests", "")
    assert ("-no-reboot" in command) is (profile != "reboot")


@pytest.mark.parametrize("name", kernel.KERNELS)
def test_each_kernel_boots_with_its_own_initramfs_over_the_one_root(name: str, tmp_path: Path) -> None:
    machine = build._parts(tmp_path, name)
    assert (machine.vmlinux, machine.initramfs) == (tmp_path / name / "vmlinux", tmp_path / name / "initramfs")
    assert machine.root == tmp_path / "root.erofs"
    assert name in {profile.kernel for profile in boot._PROFILES.values()}


@pytest.mark.parametrize(
    ("asked", "selected"),
    [(None, []), ("6.1", ["-m", 'vm(kernel="6.1")']), ("6.12", ["-m", 'not vm(kernel="6.1")'])],
)
def test_a_kernels_tests_are_told_by_their_marker(asked: str | None, selected: list[str]) -> None:
    assert _tested_on(asked) == selected


def test_modules_are_kept_unpacked_whether_they_came_packed_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = tmp_path / "usr/lib/modules/1"
    modules.mkdir(parents=True)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        (modules / name).touch()
    (modules / "a.ko.xz").write_bytes(lzma.compress(b"packed"))
    (modules / "b.ko").write_bytes(b"plain")
    (modules / "c.ko").write_bytes(b"not wanted")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: None)
    monkeypatch.setattr(kernel, "closure", lambda *_: [modules / "a.ko.xz", modules / "b.ko"])
    kernel.keep_only(tmp_path, "1", ["a", "b"])
    assert {p.name: p.read_bytes() for p in modules.glob("*.ko*")} == {"a.ko": b"packed", "b.ko": b"plain"}
