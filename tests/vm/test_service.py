"""The shipped units under a real systemd: sandboxed as they are, the daemon must still do everything it is for."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyroute2 import netns

from fabricbios.client.leases import Wish
from fabricbios.client.sync import Node, connect
from fabricbios.model import Binding, ResourceType
from vm.nvmeof_rig import load_modules, nothing_left

pytestmark = pytest.mark.vm("systemd")

UNITS = Path(__file__).parents[2] / "systemd"
RUN = Path("/run/systemd/system")
CONFIG = Path("/etc/fabricbios/fabricbiosd.toml")
DISK = Path("/var/lib/disk.img")
PINS = Path("/sys/fs/bpf/fabricbios")
NODE = "10.66.0.1"
SETTINGS = f"""mem_capacity = "8M"
block = ["{DISK}:16M"]
xdp = "generic"
xdp_iface = ["fbsv0"]
bind = ["{NODE}"]
"""


def _run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def _install(name: str, role: str) -> None:
    """Install a shipped unit; the guest has the project elsewhere than under /opt, and nothing else may differ."""
    (RUN / name).write_text((UNITS / name).read_text())
    drop_in = RUN / f"{name}.d"
    drop_in.mkdir(parents=True, exist_ok=True)
    environment = f"Environment=PYTHONPATH={os.environ['PYTHONPATH']} PYTHONDONTWRITEBYTECODE=1\n"
    command = f"ExecStart=\nExecStart={sys.executable} -m fabricbios.daemon {role}\n"
    # Everything runs interpreted here, machine code too: a start takes its time.
    (drop_in / "guest.conf").write_text(f"[Service]\n{environment}{command}TimeoutStartSec=300\n")
    _run("systemctl", "daemon-reload")


def _state(unit: str, what: str) -> str:
    return _run("systemctl", "show", "-P", what, unit)


@pytest.fixture(scope="module")
def wire() -> Iterator[None]:
    """A client at the other end of a cable."""
    _run("ip", "netns", "add", "fbsvc")
    _run("ip", "link", "add", "fbsv0", "type", "veth", "peer", "name", "fbsv1", "netns", "fbsvc")
    _run("ip", "addr", "add", f"{NODE}/24", "dev", "fbsv0")
    _run("ip", "link", "set", "fbsv0", "up")
    _run("ip", "-n", "fbsvc", "addr", "add", "10.66.0.2/24", "dev", "fbsv1")
    _run("ip", "-n", "fbsvc", "link", "set", "fbsv1", "up")
    yield
    _run("ip", "netns", "del", "fbsvc")


@pytest.fixture(scope="module")
def service(wire: None) -> Iterator[str]:
    load_modules()
    CONFIG.parent.mkdir(parents=True, exist_ok=True)
    CONFIG.write_text(SETTINGS)
    unit = "fabricbiosd.service"
    _install(unit, f"node --config {CONFIG} --log-format journal")
    started = subprocess.run(["systemctl", "start", unit], capture_output=True, text=True)
    assert started.returncode == 0, _run("journalctl", "-u", unit, "--no-pager")
    yield unit
    subprocess.run(["systemctl", "stop", unit], check=False)


@contextmanager
def _client() -> Iterator[Node]:
    """The library at the client's end of the cable: its thread stays in the namespace that it was made in."""
    netns.pushns("fbsvc")
    try:
        node = connect(NODE, identity="/root/fb", timeout=60)
    finally:
        netns.popns()
    with node:
        yield node


def _attached() -> list[str]:
    return [line for line in _run("ip", "-d", "link", "show", "fbsv0").splitlines() if "xdp" in line]


def test_systemd_finds_nothing_wrong_with_the_units() -> None:
    """`verify` wants the commands to exist, and the package is not installed under /opt here."""
    for unit in UNITS.glob("*.service"):
        said = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True).stderr
        complaints = [line for line in said.splitlines() if unit.name in line and "is not executable" not in line]
        assert complaints == []


def test_everything_is_leased(service: str) -> None:
    """Memory that the kernel answers for, a disk over UDP and one over NVMe-oF."""
    with _client() as node, node.lease_memory(1 << 20, 600) as memory, node.lease_block(4 << 20, 600) as disk:
        assert _attached()
        for lease in (memory, disk):
            lease.write(0, b"a sandbox" * 512)
            assert lease.read(0, 4096) == (b"a sandbox" * 512)[:4096]
        attached = node.allocate(Wish(ResourceType.BLOCK, 4 << 20, 600, binding=Binding.NVMEOF)).lease_id
        assert not nothing_left()
        node.free(attached)
        assert nothing_left()


def test_killed_it_is_started_again_and_what_was_leased_is_accounted_for(service: str) -> None:
    with _client() as node:
        lease_id = node.allocate(Wish(ResourceType.MEM, 1 << 20, 600)).lease_id
    before = _state(service, "MainPID")
    os.kill(int(before), signal.SIGKILL)
    while _state(service, "MainPID") in ("0", before) or _state(service, "ActiveState") != "active":
        assert _state(service, "ActiveState") != "failed", _run("journalctl", "-u", service, "--no-pager")
        time.sleep(0.5)
    with _client() as node:
        assert [lease.lease_id for lease in node.list_active()] == [lease_id]
        node.free(lease_id)


def test_a_restart_hands_over_what_was_leased(service: str) -> None:
    """Memory in the kernel, a disk over UDP, and one over NVMe-oF: all are as they were for who comes next (D8)."""
    with _client() as node:
        memory, disk = node.lease_memory(1 << 20, 600).__enter__(), node.lease_block(4 << 20, 600).__enter__()
        for lease in (memory, disk):
            lease.write(0, b"an upgrade" * 512)
        attached = node.allocate(Wish(ResourceType.BLOCK, 4 << 20, 600, binding=Binding.NVMEOF)).lease_id
        held = {memory.lease_id, disk.lease_id, attached}
        for lease in (memory, disk):
            lease.loop.wait(lease.inner.detach())
    before = _state(service, "MainPID")
    _run("systemctl", "restart", service)
    assert _state(service, "MainPID") != before
    with _client() as node:
        assert {lease.lease_id for lease in node.list_active()} == held
        for lease_id, attach in ((memory.lease_id, node.attach_memory), (disk.lease_id, node.attach_block)):
            with attach(lease_id, 600) as lease:
                assert lease.read(0, 5120) == b"an upgrade" * 512
        node.free(attached)
    assert nothing_left()


def test_a_reload_takes_the_policy_over(service: str) -> None:
    CONFIG.write_text(SETTINGS + "[policy.default]\nmax_bytes = 1\n")
    before = _state(service, "MainPID")
    _run("systemctl", "reload", service)
    assert _state(service, "MainPID") == before
    assert _state(service, "ActiveState") == "active"
    CONFIG.write_text(SETTINGS)
    _run("systemctl", "reload", service)


def test_the_sandbox_holds(service: str) -> None:
    """What the daemon has no use for it cannot do, root or not."""
    status = Path(f"/proc/{_state(service, 'MainPID')}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    may = int(fields["CapBnd"], 16)
    assert not may & (1 << 16), "CAP_SYS_MODULE"
    assert not may & (1 << 25), "CAP_SYS_TIME"
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


def test_stopped_it_leaves_nothing(service: str) -> None:
    with _client() as node:
        node.allocate(Wish(ResourceType.MEM, 1 << 20, 600))
        node.allocate(Wish(ResourceType.BLOCK, 4 << 20, 600, binding=Binding.NVMEOF))
    _run("systemctl", "stop", service)
    assert _state(service, "Result") == "success"
    assert nothing_left()
    assert _attached() == []
    assert not PINS.exists() or not any(PINS.iterdir())


def test_a_wrong_configuration_is_not_started_again(service: str) -> None:
    CONFIG.write_text('mem_capacity = "plenty"\n')
    assert subprocess.run(["systemctl", "start", service], capture_output=True).returncode != 0
    assert (_state(service, "ActiveState"), _state(service, "NRestarts")) == ("failed", "0")
    assert _state(service, "ExecMainStatus") == "2"


def test_the_relay_runs_as_nobody_in_particular() -> None:
    unit = "fabricbios-relay.service"
    _install(unit, "relay --discovery-port 0")
    try:
        _run("systemctl", "start", unit)
        assert os.stat(f"/proc/{_state(unit, 'MainPID')}").st_uid != 0
    finally:
        _run("systemctl", "stop", unit)
    assert _state(unit, "Result") == "success"
