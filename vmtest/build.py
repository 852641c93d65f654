"""Make the machine's parts from Debian's packages, once for each content of the lists and scripts that say how.

A finished machine is the directory .cache/vm/<key>/ with root.erofs and, for each kernel, vmlinux and initramfs. It
appears by a rename, so half of one is never used, and older ones are removed. Making it needs root (chroot) and the
network.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

from vmtest import CACHE, PROJECT, Unavailable, bytecode, initramfs, qemu
from vmtest import kernel as kernels
from vmtest.apt import KEYRING, Apt, host_codename, host_mirror, source_line
from vmtest.kernel import DEFAULT, KERNELS

SUITE = KERNELS[DEFAULT].suite  # of the root, whatever the kernel
PYTHON = "3.13"  # SUITE's
CACHE_TAG = "cpython-313"
_HOST_TOOLS = ("mmdebstrap", "erofs-utils", "zstd", "xz-utils", "qemu-system-x86")
_TEST_TOOLS = ("pytest", "pytest-timeout", "hypothesis")
_HERE = Path(__file__).parent
_RECIPE = (
    "packages.txt",
    *(kernel.modules for kernel in KERNELS.values()),
    "build.py",
    "kernel.py",
    "initramfs.py",
    "cpio.py",
    "bytecode.py",
    "guest/initramfs-init",
)


class Machine(NamedTuple):
    """The parts that QEMU boots."""

    vmlinux: Path
    root: Path
    initramfs: Path
    interpreter: Path


def names_in(path: Path) -> list[str]:
    """Return the words of a list file: one a line, # starts a comment."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def requirements() -> list[str]:
    """Return what the guest's Python needs: the project's own dependencies and the test runner."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return sorted([*project["dependencies"], *_TEST_TOOLS])


def key() -> str:
    """Return the name of the machine that the present lists and scripts make."""
    digest = hashlib.sha256()
    for name in _RECIPE:
        digest.update((_HERE / name).read_bytes() + b"\0")
    digest.update("\n".join(requirements()).encode())
    digest.update((PROJECT / "requirements.lock").read_bytes())
    return digest.hexdigest()[:16]


def cached(kernel: str = DEFAULT) -> Machine | None:
    """Return the machine for the present lists and scripts if it was made already."""
    machine = _parts(CACHE / key(), kernel)
    return machine if all(part.exists() for part in machine) else None


def machine(kernel: str = DEFAULT) -> Machine:
    """Return the machine with one of KERNELS, made now if need be. Raises Unavailable with the probe that failed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if cached(kernel) is None or qemu.missing():
            _make()
    return _parts(CACHE / key(), kernel)


def _parts(directory: Path, kernel: str) -> Machine:
    own = directory / kernel
    return Machine(own / "vmlinux", directory / "root.erofs", own / "initramfs", directory / "python")


def _make() -> None:
    if os.geteuid() != 0:
        raise Unavailable("making the machine takes a chroot, and geteuid() is not 0 (run ./dev vm as root once)")
    log_path = CACHE / "build.log"
    with log_path.open("wb") as log:
        try:
            _install_host_tools(log.fileno())
            if cached() is None:
                _build(log.fileno())
        except subprocess.CalledProcessError as error:
            tail = log_path.read_text(errors="replace")[-2000:]
            raise Unavailable(f"{error.cmd[0]} failed while making the machine: {tail}") from error


def _install_host_tools(log: int) -> None:
    """Install QEMU and the image tools unless they are there; bookworm's QEMU knows no igb, its backport does."""
    if not qemu.missing() and all(map(shutil.which, ("mmdebstrap", "mkfs.erofs", "zstd", "xz"))):
        return
    codename = host_codename()
    backports = f"{codename}-backports" if codename == "bookworm" else codename
    apt = Apt(CACHE / "apt-host", tuple(dict.fromkeys((codename, backports))), log, host=True)
    apt.run("update")
    apt.run("install", "-y", "--no-install-recommends", "-t", backports, *_HOST_TOOLS)


def _build(log: int) -> None:
    """Make everything in a directory of its own, and take the older machines away once it is there."""
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="making-") as work:
        made, root = Path(work) / "made", Path(work) / "root"
        made.mkdir()
        _make_root(root, Path(work), log)
        for name in KERNELS:
            _add_kernel(name, root, made, log)
        _add_python(root, log)
        bytecode.keep_interpreter(root, made / "python", PYTHON)
        # Times stay as they are: byte code holds only for a source of its own time.
        _run(log, "mkfs.erofs", "--quiet", "-x-1", made / "root.erofs", root)
        made.rename(CACHE / key())
    for old in CACHE.glob("*/root.erofs"):
        if old.parent.name != key():
            shutil.rmtree(old.parent)


def _run(log: int, *command: str | Path) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _make_root(root: Path, work: Path, log: int) -> None:
    sources = work / "sources.list"
    sources.write_text(source_line(host_mirror(), SUITE))
    packages = ",".join(names_in(_HERE / "packages.txt"))
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", "--architectures=amd64", f"--include={packages}"]
    command += [f"--keyring={KEYRING}", '--aptopt=APT::Install-Recommends "false"']
    command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
    _run(log, *command, SUITE, root, sources)


def _add_kernel(name: str, root: Path, made: Path, log: int) -> None:
    """Put a kernel and its initramfs beside the root, and into the root the modules we want of it."""
    parts, kernel = _parts(made, name), KERNELS[name]
    parts.vmlinux.parent.mkdir()
    wanted = [*initramfs.module_names(), *names_in(_HERE / kernel.modules)]
    version = kernels.add(kernel, wanted, root, parts.vmlinux, log)
    parts.initramfs.write_bytes(initramfs.make(root, version))


def _add_python(root: Path, log: int) -> None:
    """Put the wheels at /opt/python and compile all byte code with the guest's own Python: imports are slow in TCG."""
    uv = Path(sys.prefix) / "bin" / "uv"
    target = root / "opt/python"
    command: list[str | Path] = [uv, "pip", "install", "--quiet", "--target", target, "--python-version", PYTHON]
    command += ["--only-binary", ":all:", "--constraint", PROJECT / "requirements.lock"]
    _run(log, *command, *requirements())
    _run(log, "chroot", root, "python3", "-m", "compileall", "-q", "-j2", "/opt/python")
