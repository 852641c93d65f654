"""QEMU's side: does it work here, and the command line of one boot."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

QEMU = "qemu-system-x86_64"
_NEEDED_DEVICES = ("igb", "isa-debug-exit", "virtio-9p-pci", "virtserialport")
# Reset vector at the end of a 64 KiB BIOS: mov $1, %al; out %al, $0xf4; hlt.
_EXIT_BIOS = b"\xf4" * (65536 - 16) + b"\xb0\x01\xe6\xf4\xf4" + b"\xf4" * 11
_EXIT_PORT = ("-device", "isa-debug-exit,iobase=0xf4,iosize=4")


def missing() -> str:
    """Return what this host's QEMU lacks, "" where it has all the devices of the machine."""
    if not shutil.which(QEMU):
        return f"{QEMU} is not installed"
    devices = subprocess.run([QEMU, "-device", "help"], capture_output=True, text=True).stdout
    lacking = [name for name in _NEEDED_DEVICES if f'name "{name}"' not in devices]
    return f"{QEMU} has no device {', '.join(lacking)}" if lacking else ""


def executes(accelerator: str) -> bool:
    """Run four instructions under `accelerator` and say whether they arrived at the exit port."""
    with tempfile.NamedTemporaryFile() as bios:
        bios.write(_EXIT_BIOS)
        bios.flush()
        command = [QEMU, "-accel", accelerator, "-M", "pc", "-nodefaults", "-no-user-config", "-display", "none"]
        try:
            run = subprocess.run([*command, "-bios", bios.name, *_EXIT_PORT], capture_output=True, timeout=20)
        except subprocess.TimeoutExpired:
            return False
    return run.returncode == 3


@functools.cache
def accelerator() -> str:
    """Return "kvm" where it really runs a guest, else "tcg".

    PVM's KVM takes only kernels built for it: it would start and then hang, so it is not even asked.
    """
    if Path("/sys/module/kvm_pvm").exists() or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    return "kvm" if executes("kvm") else "tcg"


def share(tag: str, path: Path) -> list[str]:
    """Return the arguments that offer a directory to the guest, read-only, over 9p."""
    return ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none,readonly=on,multidevs=remap"]


def hardware(scratch: Path) -> list[str]:
    """Return the devices under test: virtio_net, igb and nvme with SR-IOV behind root ports, plain disks, an IPMI BMC.

    `scratch` gets sparse files; nothing written to them outlives the boot (snapshot=on).
    """
    arguments: list[str] = []
    for name in ("nvme", "disk"):
        with (scratch / f"{name}.img").open("wb") as image:
            image.truncate(64 << 20)
        arguments += ["-drive", f"if=none,id={name},file={image.name},format=raw,snapshot=on"]
    arguments += ["-device", "virtio-blk-pci,drive=disk,serial=vmtest-disk"]
    arguments += ["-netdev", "user,id=net0,restrict=on", "-device", "virtio-net-pci,netdev=net0,romfile="]
    arguments += ["-device", "pcie-root-port,id=rp1,chassis=1,slot=1", "-netdev", "user,id=net1,restrict=on"]
    arguments += ["-device", "igb,netdev=net1,bus=rp1,romfile=,mac=02:00:00:00:01:01"]
    arguments += ["-device", "pcie-root-port,id=rp2,chassis=2,slot=2", "-device", "nvme-subsys,id=subsys0,nqn=subsys0"]
    arguments += ["-device", "nvme,serial=vmtest-nvme,subsys=subsys0,bus=rp2,sriov_max_vfs=4,sriov_vq_flexible=8,"]
    arguments[-1] += "sriov_vi_flexible=4"
    arguments += ["-device", "nvme-ns,drive=nvme,nsid=1"]
    return [*arguments, "-device", "ipmi-bmc-sim,id=bmc0", "-device", "isa-ipmi-kcs,bmc=bmc0"]


def base(kernel: Path, initramfs: Path, root: Path, append: str) -> list[str]:
    """Return the command line of the bare machine: processors, memory, kernel, root disk, exit port.

    no_timer_check: on a busy host an emulated timer may tick too late for the kernel's check, which then panics.
    """
    chosen = accelerator()
    accel = "kvm" if chosen == "kvm" else "tcg,thread=multi,tb-size=512"
    cpu = "host" if chosen == "kvm" else "max"
    return [
        *(QEMU, "-M", "q35", "-accel", accel, "-cpu", cpu, "-smp", "2", "-m", "2G"),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-kernel", str(kernel), "-initrd", str(initramfs)),
        *("-append", f"console=ttyS0 panic=-1 no_timer_check {append}"),
        *("-drive", f"if=none,id=root,file={root},format=raw,readonly=on", "-device", "virtio-blk-pci,drive=root"),
        *("-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"),
        *_EXIT_PORT,
    ]


def report_port(path: Path) -> list[str]:
    """Return the arguments that let the guest write its report into the file `path` over virtio-serial."""
    port = ["-device", "virtserialport,chardev=report,name=vmtest.report"]
    return ["-device", "virtio-serial-pci", "-chardev", f"file,id=report,path={path}", *port]
