"""One boot of the machine: tests inside with their reports outside, a prompt, or one command."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from vmtest import PROJECT, build, bytecode, qemu
from vmtest.kernel import DEFAULT, KERNELS

LIMIT = 1800  # seconds a boot with tests may take, whatever the tests do; a quiet machine needs a fifth
_PLAIN = "vm.init=/project/vmtest/guest/init"
_SYSTEMD = "vm.init=/sbin/init systemd.mask=serial-getty@ttyS0.service systemd.mask=systemd-firstboot.service"


class Profile(NamedTuple):
    """What machines differ in. `reboots`: a reset boots it again, and what was on its disks is still there."""

    init: str = _PLAIN
    kernel: str = DEFAULT
    hardware: bool = True
    reboots: bool = False


# A kernel's name is that of the machine for what must hold on it: nothing else is tested there, so it has no devices.
_PROFILES = {"plain": Profile(), "reboot": Profile(reboots=True), "systemd": Profile(_SYSTEMD)}
_PROFILES |= {kernel: Profile(kernel=kernel, hardware=False) for kernel in KERNELS if kernel != DEFAULT}


class Ended(NamedTuple):
    """How a boot ended: the guest's exit status (None: it never said), its report lines, its console."""

    status: int | None
    report: list[str]
    console: str
    timed_out: bool


def profiles() -> tuple[str, ...]:
    """Name the machines there are."""
    return tuple(_PROFILES)


def boot(profile: str, task: str, content: str = "", limit: float = LIMIT) -> Ended:
    """Boot the machine for one task ("tests" with node ids, or "command" with a script) and wait for its end.

    Raises Unavailable where the machine cannot be had, KeyError for an unknown profile.
    """
    machine = build.machine(_PROFILES[profile].kernel)
    with tempfile.TemporaryDirectory(prefix="vmtest-") as directory:
        run = Path(directory)
        report = run / "report"
        command = _command(machine, _PROFILES[profile], run, task, content)
        console = run / "console"
        status, timed_out = _wait(command, console, limit)
        lines = report.read_text(errors="replace").splitlines() if report.exists() else []
        return Ended(status, lines, console.read_text(errors="replace"), timed_out)


def shell(profile: str) -> int:
    """Boot to a prompt on this terminal (Ctrl-A X ends QEMU); return the shell's exit status."""
    machine = build.machine(_PROFILES[profile].kernel)
    with tempfile.TemporaryDirectory(prefix="vmtest-") as directory:
        command = _command(machine, _PROFILES[profile], Path(directory), "shell", "")
        return _guest_status(subprocess.run([*command, "-serial", "mon:stdio"]).returncode) or 0


def _command(machine: build.Machine, profile: Profile, run: Path, task: str, content: str) -> list[str]:
    into_guest = run / "into-guest"
    into_guest.mkdir()
    (into_guest / "task").write_text(task + "\n")
    (into_guest / ("items" if task == "tests" else "command")).write_text(content)
    return [
        *qemu.base(machine.vmlinux, machine.initramfs, machine.root, f"quiet {profile.init}"),
        *(() if profile.reboots else ("-no-reboot",)),
        *qemu.share("project", PROJECT),
        *qemu.share("bytecode", bytecode.layer(machine.interpreter, build.CACHE_TAG)),
        *qemu.share("run", into_guest),
        *qemu.report_port(run / "report"),
        *(qemu.hardware(run) if profile.hardware else ()),
    ]


def _wait(command: list[str], console: Path, limit: float) -> tuple[int | None, bool]:
    with console.open("wb") as output:
        guest = subprocess.Popen(
            [*command, "-serial", "stdio"], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            return _guest_status(guest.wait(limit)), False
        except subprocess.TimeoutExpired:
            return None, True
        finally:
            guest.kill()
            guest.wait()


def _guest_status(code: int) -> int | None:
    """Undo isa-debug-exit's 2n+1. An even code means that the guest ended without saying how: a panic, say."""
    return code >> 1 if code > 0 and code % 2 else None
