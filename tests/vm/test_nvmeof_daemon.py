"""A leased disk for people: daemon and command line as processes, a filesystem, and a daemon that is killed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fabricbios.hw import nvme_host
from vm.nvmeof_rig import load_modules, nothing_left

pytestmark = pytest.mark.vm

SIZE = 16 << 20


class Site:
    """One node and one client on this machine."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.daemon: subprocess.Popen[str] | None = None
        self.address = ""

    def start(self) -> None:
        places = ["--state-dir", str(self.directory / "state"), "--runtime-dir", str(self.directory / "run")]
        ports = [word for name in ("control", "discovery", "fbmu", "fbbu") for word in (f"--{name}-port", "0")]
        disk = ["--block", f"{self.directory / 'disk'}:{SIZE * 2}", "--nvmeof", "tcp:4420"]
        command = [sys.executable, "-m", "fabricbios.daemon", "node", "--bind", "127.0.0.1", "--trust", "tofu"]
        with (self.directory / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [*command, *places, *ports, *disk], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.daemon.stdout is not None
        line = self.daemon.stdout.readline()
        assert line.startswith("ready "), (self.directory / "daemon.log").read_text()
        control = json.loads(line.removeprefix("ready "))["control"]
        self.address = f"{control['addr']}:{control['port']}"

    def end(self, number: int) -> int:
        """Send the daemon a signal and return how it exited."""
        assert self.daemon is not None
        self.daemon.send_signal(number)
        code = self.daemon.wait(60)
        self.daemon = None
        return code

    def cli(self, *arguments: str) -> Any:
        """Run fabricbios with --json and return its document."""
        command = [sys.executable, "-m", "fabricbios.cli", "-H", self.address]
        identity = ["--identity", str(self.directory / "client")]
        answer = subprocess.run([*command, *identity, *arguments, "--json"], capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)

    def leased_disk(self) -> tuple[str, str]:
        """Lease, attach; return lease id and block device."""
        lease = self.cli("lease", "block", "--size", str(SIZE), "--ttl", "10m", "--binding", "nvmeof")["lease_id"]
        return lease, self.cli("attach", lease)["device"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    load_modules()
    site = Site(tmp_path)
    site.start()
    yield site
    for nqn in set(nvme_host.subsystems()):
        if "fabricbios" in nqn:
            nvme_host.disconnect(nqn)
    if site.daemon:
        assert site.end(signal.SIGTERM) == 0
    assert nothing_left()


def test_lease_attach_mkfs_detach_free(site: Site, tmp_path: Path) -> None:
    lease, device = site.leased_disk()
    assert site.cli("attach", lease)["device"] == device, "attaching twice is as once"
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    subprocess.run(["mount", device, mountpoint], check=True)
    (mountpoint / "letter").write_text("from another machine")
    subprocess.run(["umount", mountpoint], check=True)
    assert site.cli("detach", lease) == {
        "schema": "fabricbios.attachment/1",
        "lease_id": lease,
        "device": None,
        "attached": False,
    }
    device = site.cli("attach", lease)["device"]
    subprocess.run(["mount", "-o", "ro", device, mountpoint], check=True)
    assert (mountpoint / "letter").read_text() == "from another machine"
    subprocess.run(["umount", mountpoint], check=True)
    site.cli("detach", lease)
    site.cli("free", lease)
    assert nothing_left()


def test_a_killed_daemons_lease_lives_on_under_its_successor(site: Site) -> None:
    lease, device = site.leased_disk()
    fd = os.open(device, os.O_RDWR | os.O_SYNC)
    try:
        os.pwrite(fd, b"before the kill", 0)
        assert site.end(signal.SIGKILL) == -signal.SIGKILL
        site.start()
        os.pwrite(fd, b"after", 4096)
        assert os.pread(fd, 15, 0) == b"before the kill"
    finally:
        os.close(fd)
    assert lease in [found["lease_id"] for found in site.cli("leases")["leases"]]


def test_sigterm_leaves_nothing_behind(site: Site) -> None:
    site.leased_disk()
    assert site.end(signal.SIGTERM) == 0
    assert nothing_left()
