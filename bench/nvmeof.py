"""A leased NVMe-oF disk against the same disk exported by hand with nvmet, in the QEMU test machine; and how long
binding and teardown of such a lease take.

Both are served by the kernel over TCP on loopback and read by its own host with fio, in turns. fabricBIOS is not on
the path of the data, so anything but 1.00 within the noise would be a mistake. Absolute figures are those of an
emulated machine: read the ratio.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.extend(str(Path(__file__).parents[up] / sub) for up, sub in ((0, ""), (1, ""), (1, "tests")))

from report import Row, run

DISK = Path("/dev/ram0")
HAND_NQN = "nqn.2014-08.org.example:by-hand"
HAND_HOST = "nqn.2014-08.org.example:host"
PEER = "nvmet by hand"
WORKS = {
    "4k random read": ("--rw=randread", "--bs=4k", "--iodepth=16"),
    "128k sequential read": ("--rw=read", "--bs=128k", "--iodepth=4"),
}


def measured_outside(quick: bool) -> Sequence[Row]:
    """Boot the machine, measure there, and return its rows."""
    from vmtest import boot

    flag = "--quick" if quick else ""
    ended = boot.boot("plain", "command", f"python3 bench/nvmeof.py --inside {flag}")
    if ended.status != 0 or not ended.report:
        raise SystemExit(f"the bench failed inside the machine:\n{ended.console[-2000:]}")
    return [Row(**row) for row in json.loads(ended.report[-1])]


def measured_inside(quick: bool) -> list[Row]:
    """Measure on this kernel; needs root and nvmet."""
    from vm.nvmeof_rig import load_modules

    load_modules()
    subprocess.run(["modprobe", "brd", "rd_nr=1", "rd_size=65536"], check=True)
    runs, seconds = (3, 1) if quick else (7, 5)
    with tempfile.TemporaryDirectory() as directory:
        return [*_data(Path(directory), runs, seconds), *_latency(Path(directory), 5 if quick else 50)]


def _data(directory: Path, runs: int, seconds: int) -> Iterator[Row]:
    with _leased(directory) as ours, _by_hand() as theirs:
        for case, options in WORKS.items():
            rates: dict[str, list[float]] = {ours: [], theirs: []}
            for turn in range(runs):
                # Whoever goes first finds the machine as the other left it: take turns in that as well.
                for disk in (ours, theirs) if turn % 2 else (theirs, ours):
                    rates[disk].append(_fio(disk, seconds, options))
            mine, other = (statistics.median(rates[disk]) for disk in (ours, theirs))
            spread = (max(rates[ours]) - min(rates[ours])) / mine
            yield Row(f"{case}, tcp", mine, "MiB/s", PEER, other, mine / other, runs, spread)


def _latency(directory: Path, runs: int) -> Iterator[Row]:
    from vm.nvmeof_rig import lease_of, node_at

    bound, torn = [], []
    with node_at(directory, disk=DISK) as node:
        for number in range(runs):
            lease = lease_of(0x100 + number, 1 << 20)
            bound.append(_timed(lambda lease=lease: node.bind(lease)))
            torn.append(_timed(lambda lease=lease: node.unbind(lease)))
    for case, times in (("bind a lease of 1 MiB", bound), ("tear it down, wiped", torn)):
        middle = statistics.median(times)
        yield Row(case, middle, "ms", "-", None, None, runs, (max(times) - min(times)) / middle)


@contextmanager
def _leased(directory: Path) -> Iterator[str]:
    from vm.nvmeof_rig import lease_of, node_at, targets

    from fabricbios.hw import nvme_host

    with node_at(directory, disk=DISK) as node:
        lease = lease_of(1, node.backing.size)
        target = targets(node.bind(lease))[0]
        nvme_host.connect(target)
        try:
            yield nvme_host.wait_for_disk(target.nqn)
        finally:
            nvme_host.disconnect(target.nqn)
            node.unbind(lease)


@contextmanager
def _by_hand() -> Iterator[str]:
    """Export the same disk as any admin would."""
    from fabricbios.hw import nvme_host

    config = Path("/sys/kernel/config/nvmet")
    subsystem, port = config / "subsystems" / HAND_NQN, config / "ports/1"
    (subsystem / "namespaces/1").mkdir(parents=True)
    (subsystem / "attr_allow_any_host").write_text("1")
    (subsystem / "namespaces/1/device_path").write_text(str(DISK))
    (subsystem / "namespaces/1/enable").write_text("1")
    port.mkdir()
    for name, value in (("trtype", "tcp"), ("adrfam", "ipv4"), ("traddr", "127.0.0.1"), ("trsvcid", "4421")):
        (port / f"addr_{name}").write_text(value)
    link = port / "subsystems" / HAND_NQN
    link.symlink_to(subsystem)
    nvme_host.connect(nvme_host.Target(HAND_NQN, "tcp", "127.0.0.1", 4421, HAND_HOST))
    try:
        yield nvme_host.wait_for_disk(HAND_NQN)
    finally:
        nvme_host.disconnect(HAND_NQN)
        link.unlink()
        for path in (port, subsystem / "namespaces/1", subsystem):
            path.rmdir()


def _fio(disk: str, seconds: int, options: Sequence[str]) -> float:
    """Return MiB/s of direct reads."""
    command = ["fio", "--name=bench", f"--filename={disk}", "--direct=1", "--ioengine=libaio", "--time_based"]
    command += [f"--runtime={seconds}", "--output-format=json", *options]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(answer)["jobs"][0]["read"]["bw_bytes"]) / (1 << 20)


def _timed(work: Callable[[], object]) -> float:
    """Return milliseconds."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def _report(rows: Sequence[Row]) -> None:
    """Hand the rows to the host over the machine's port."""
    from vmtest.guest.report import port_device

    line = json.dumps([vars(row) for row in rows]) + "\n"
    fd = os.open(port_device(), os.O_WRONLY)
    os.write(fd, line.encode())
    os.close(fd)


def main(argv: Sequence[str] | None = None) -> int:
    """Run outside, or with --inside in the machine itself."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--inside" in arguments:
        _report(measured_inside("--quick" in arguments))
        return 0
    return run("nvmeof", measured_outside, arguments)


if __name__ == "__main__":
    sys.exit(main())
