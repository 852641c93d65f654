"""What this machine can do, found out by trying (design.md, "Probe, never compare versions").

Each probe tries the very thing, undoes it, and says what it found. None needs more privilege than the facility
itself, none leaves anything behind, none touches an interface or a device of this machine: network things are
tried in a namespace that lives as long as one thread.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import stat
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from fabricbios.errors import Unsupported
from fabricbios.hw import bpf, memory, pci
from fabricbios.hw.sysfs import Sysfs, to_int

_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x4000_0000
SYS_IO_URING_SETUP = 425  # the same number on every architecture since 5.1
IO_URING_PARAMS = 120  # sizeof(struct io_uring_params)
XDP_PASS_PROGRAM = bytes.fromhex("b7000000020000009500000000000000")  # r0 = XDP_PASS; exit
LOOPBACK = 1  # ifindex in every network namespace
CAPABILITIES = {
    12: "NET_ADMIN", 13: "NET_RAW", 14: "IPC_LOCK", 17: "SYS_RAWIO", 21: "SYS_ADMIN", 38: "PERFMON", 39: "BPF",
}  # fmt: skip


class Probe(NamedTuple):
    """`found` says what happened in either case; `remedy` what to do where it failed; `serves` what needs it.

    `required` facilities are those without which a node cannot serve at all; the others have a next in line.
    """

    name: str
    ok: bool
    found: str
    remedy: str
    serves: str
    required: bool


class _Facility(NamedTuple):
    """`attempt` returns what it found or raises OSError or Unsupported."""

    name: str
    attempt: Callable[[Sysfs], str]
    remedy: str
    serves: str
    required: bool = False


def probe_all(fs: Sysfs) -> tuple[Probe, ...]:
    """Run every probe; the machine is `fs`, system calls go to the running kernel."""
    return tuple(_run(facility, fs) for facility in FACILITIES)


def probe(name: str, fs: Sysfs) -> Probe:
    """Run one probe by its name. Raises KeyError for a name that FACILITIES does not have."""
    return _run({facility.name: facility for facility in FACILITIES}[name], fs)


def _run(facility: _Facility, fs: Sysfs) -> Probe:
    try:
        found, ok = facility.attempt(fs), True
    except Unsupported as error:
        found, ok = error.probe, False
    except OSError as error:
        found, ok = (
            ": ".join(filter(None, (error.filename and str(error.filename), error.strerror or str(error)))),
            False,
        )
    remedy = "" if ok else facility.remedy
    return Probe(facility.name, ok, found, remedy, facility.serves, facility.required)


def _lacks(name: str, found: str) -> Unsupported:
    return Unsupported(name, found)


def _boottime(_fs: Sysfs) -> str:
    return f"up {time.clock_gettime(time.CLOCK_BOOTTIME):.0f} s"


def _memfd(_fs: Sysfs) -> str:
    os.close(os.memfd_create("probe", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    return "memfd_create with sealing works"


def _memfd_hugepages(_fs: Sysfs) -> str:
    """A shared mapping reserves its pages at once, so mmap fails right here where the pool is empty."""
    size = mmap.PAGESIZE * 512 if mmap.PAGESIZE == 4096 else 2 << 20
    fd = os.memfd_create("probe", os.MFD_CLOEXEC | os.MFD_HUGETLB)
    try:
        os.ftruncate(fd, size)
        mmap.mmap(fd, size).close()
    finally:
        os.close(fd)
    return "a hugepage can be mapped"


def _hugepages(fs: Sysfs) -> str:
    pools = [pool for pool in memory.hugepages(fs) if pool.total]
    if not pools:
        raise _lacks("hugepages", "no hugepages are reserved")
    return ", ".join(f"{p.free} of {p.total} free of {p.page_bytes >> 10} KiB" for p in pools)


def _in_new_netns(action: Callable[[], str]) -> str:
    """Run `action` in a network namespace of its own: unshare(2) moves the calling thread alone, and the namespace
    goes with it."""
    outcome: list[str | OSError | Unsupported] = []

    def run() -> None:
        try:
            if _libc.unshare(CLONE_NEWNET):
                code = ctypes.get_errno()
                raise OSError(code, f"unshare(CLONE_NEWNET): {os.strerror(code)}")
            outcome.append(action())
        except (OSError, Unsupported) as error:
            outcome.append(error)

    thread = threading.Thread(target=run, name="probe-netns")
    thread.start()
    thread.join()
    result = outcome[0]
    if not isinstance(result, str):
        raise result
    return result


def _netns(_fs: Sysfs) -> str:
    return _in_new_netns(lambda: "a network namespace can be made")


def _bpf(_fs: Sysfs) -> str:
    os.close(bpf.map_create(bpf.MapType.ARRAY, 4, 8, 1, bpf.BPF_F_MMAPABLE))
    return "bpf(2) creates an mmap-able map"


def _xdp(_fs: Sysfs) -> str:
    def attach() -> str:
        program = bpf.prog_load(bpf.Program("probe", XDP_PASS_PROGRAM, "GPL"))
        try:
            os.close(bpf.link_xdp(program, LOOPBACK, bpf.XDP_FLAGS_SKB_MODE))
        finally:
            os.close(program)
        return "a program loads and attaches (generic mode; native is found per interface)"

    return _in_new_netns(attach)


def _io_uring(_fs: Sysfs) -> str:
    params = ctypes.create_string_buffer(IO_URING_PARAMS)
    fd = _libc.syscall(SYS_IO_URING_SETUP, 1, params)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"io_uring_setup: {os.strerror(code)}")
    os.close(fd)
    return "io_uring_setup works"


def _rdma(fs: Sysfs) -> str:
    devices = fs.names("/sys/class/infiniband")
    if not devices:
        raise _lacks("rdma", "/sys/class/infiniband is empty or missing")
    return ", ".join(devices)


def _nvmet(fs: Sysfs) -> str:
    os.listdir(fs.path("/sys/kernel/config/nvmet/subsystems"))
    return "nvmet's configfs tree is there"


def _nvme_fabrics(fs: Sysfs) -> str:
    os.close(os.open(fs.path("/dev/nvme-fabrics"), os.O_RDWR | os.O_CLOEXEC))
    return "/dev/nvme-fabrics opens"


def _sriov(fs: Sysfs) -> str:
    able = [device for device in pci.detect(fs) if device.sriov_total]
    if not able:
        raise _lacks("sriov", "no PCI function has SR-IOV")
    return ", ".join(f"{d.name} ({d.sriov_active or 0} of {d.sriov_total} VFs)" for d in able)


def _udev(fs: Sysfs) -> str:
    if not stat.S_ISSOCK(os.stat(fs.path("/run/udev/control")).st_mode):
        raise _lacks("udev", "/run/udev/control is not a socket")
    return "udevd listens"


def _systemd(fs: Sysfs) -> str:
    os.stat(fs.path("/run/systemd/system"))
    return "systemd is the service manager" + (", we are its unit" if os.environ.get("NOTIFY_SOCKET") else "")


def _cgroup2(fs: Sysfs) -> str:
    controllers = fs.text("/sys/fs/cgroup/cgroup.controllers")
    if not controllers:
        raise _lacks("cgroup2", "/sys/fs/cgroup is no cgroup v2 tree with controllers")
    return controllers


def _bpffs(fs: Sysfs) -> str:
    if not any(" /sys/fs/bpf " in line and " - bpf " in line for line in fs.lines("/proc/self/mountinfo")):
        raise _lacks("bpffs", "no bpf file system on /sys/fs/bpf")
    return "mounted on /sys/fs/bpf"


def _capabilities(fs: Sysfs) -> str:
    prefix = "CapEff:"
    line = next((text for text in fs.lines("/proc/self/status") if text.startswith(prefix)), prefix)
    mask = to_int(line.removeprefix(prefix).strip(), 16)
    if mask is None:
        raise _lacks("capabilities", "/proc/self/status does not tell them")
    missing = [name for bit, name in CAPABILITIES.items() if not mask >> bit & 1]
    if missing:
        raise _lacks("capabilities", "without " + ", ".join(f"CAP_{name}" for name in missing))
    return ", ".join(f"CAP_{name}" for name in CAPABILITIES.values())


FACILITIES: tuple[_Facility, ...] = (
    _Facility("CLOCK_BOOTTIME", _boottime, "needs Linux 2.6.39", "lease clocks", required=True),
    _Facility("memfd", _memfd, "allow memfd_create (is a seccomp filter at work?)", "leased memory", required=True),
    _Facility(
        "hugepages", _hugepages, "reserve some: sysctl vm.nr_hugepages=512", "leased memory with fewer TLB misses"
    ),
    _Facility("memfd hugepages", _memfd_hugepages, "reserve hugepages: sysctl vm.nr_hugepages=512", "leased memory"),
    _Facility("capabilities", _capabilities, "run fabricbiosd by its systemd unit, or as root", "all drivers"),
    _Facility("netns", _netns, "run as root, or with CAP_SYS_ADMIN", "network leases into a namespace, tests"),
    _Facility("bpf", _bpf, "needs CAP_BPF, and a kernel with CONFIG_BPF_SYSCALL", "the kernel data path"),
    _Facility("bpffs", _bpffs, "mount -t bpf bpf /sys/fs/bpf", "kernel data path that outlives the daemon"),
    _Facility(
        "xdp", _xdp, "needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON", "memory in the kernel, the check before blocks"
    ),
    _Facility(
        "io_uring", _io_uring, "sysctl kernel.io_uring_disabled=0", "nothing yet: block I/O uses preadv and pwritev"
    ),
    _Facility("nvmet", _nvmet, "modprobe nvmet nvmet-tcp; mount -t configfs none /sys/kernel/config", "NVMe-oF leases"),
    _Facility("nvme-fabrics", _nvme_fabrics, "modprobe nvme-tcp, as root", "fabricbios attach"),
    _Facility("rdma", _rdma, "an RDMA device, or rdma_rxe: rdma link add rxe0 type rxe netdev IFACE", "RDMA leases"),
    _Facility("sriov", _sriov, "a device with SR-IOV, switched on in firmware", "VF leases"),
    _Facility("udev", _udev, "start systemd-udevd; without it devices are found at start only", "hot-plug"),
    _Facility("systemd", _systemd, "optional: any supervisor will do", "units, watchdog, credentials"),
    _Facility("cgroup2", _cgroup2, "boot with systemd.unified_cgroup_hierarchy=1", "CPU leases"),
)
