"""Make the machine's parts from Debian's packages, once for each content of the lists and scripts that say how.

A finished machine is the directory .cache/vm/<key>/ with vmlinux, root.erofs and initramfs; it appears by a
rename, so half of one is never used, and older ones are removed. Building needs root (chroot) and the network.
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
from vmtest.apt import KEYRING, Apt, host_codename, host_mirror, source_line
from vmtest.kernel import keep_only, unpack_vmlinux

SUITE = (
    "trixie"  # kernel 6.12: rxe, nvmet with tcp, rdma and loop, DH-HMAC-CHAP, igb, 9p (its cloud flavour lacks them)
)
PYTHON = "3.13"  # SUITE's
CACHE_TAG = "cpython-313"
_HOST_TOOLS = ("mmdebstrap", "erofs-utils", "zstd", "xz-utils", "qemu-system-x86")
_TEST_TOOLS = ("pytest", "pytest-timeout", "hypothesis")
_HERE = Path(__file__).parent
_RECIPE = (
    "packages.txt",
    "modules.txt",
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


def cached() -> Machine | None:
    """Return the machine for the present lists and scripts if it was made already."""
    machine = _parts(CACHE / key())
    return machine if all(part.exists() for part in machine) else None


def machine() -> Machine:
    """Return the machine, made now if need be. Raises Unavailable with the probe that failed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = cached()
        if ready is None or qemu.missing():
            ready = _made()
    return ready


def _parts(directory: Path) -> Machine:
    return Machine(directory / "vmlinux", directory / "root.erofs", directory / "initramfs", directory / "python")


def _made() -> Machine:
    if os.geteuid() != 0:
        raise Unavailable("making the machine takes a chroot, and geteuid() is not 0 (run ./dev vm as root once)")
    log_path = CACHE / "build.log"
    with log_path.open("wb") as log:
        try:
            _install_host_tools(log.fileno())
            return cached() or _build(log.fileno())
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


def _build(log: int) -> Machine:
    """Make everything in a directory of its own, and take the older machines away once it is there."""
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="making-") as work:
        made, root = Path(work) / "made", Path(work) / "root"
        made.mkdir()
        _make_root(root, Path(work), log)
        version = _add_kernel(root, made, Path(work), log)
        _parts(made).initramfs.write_bytes(initramfs.make(root, version))
        _add_python(root, log)
        bytecode.keep_interpreter(root, _parts(made).interpreter, PYTHON)
        # Times stay as they are: byte code holds only for a source of its own time.
        _run(log, "mkfs.erofs", "--quiet", "-x-1", _parts(made).root, root)
        made.rename(CACHE / key())
    for old in CACHE.glob("*/vmlinux"):
        if old.parent.name != key():
            shutil.rmtree(old.parent)
    return _parts(CACHE / key())


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


def _add_kernel(root: Path, made: Path, work: Path, log: int) -> str:
    """Unpack SUITE's kernel beside the root and leave in the root the modules we want; return its version."""
    apt = Apt(CACHE / "apt-guest", (SUITE,), log, host=False)
    apt.run("update")
    package = next(name for name in apt.depends("linux-image-amd64") if name.startswith("linux-image-"))
    apt.run("download", package, cwd=work)
    _run(log, "dpkg-deb", "-x", next(work.glob("linux-image-*.deb")), work / "kernel")
    version = package.removeprefix("linux-image-")
    unpack_vmlinux(work / "kernel/boot" / f"vmlinuz-{version}", _parts(made).vmlinux)
    shutil.copytree(_modules_below(work / "kernel") / version, root / "usr/lib/modules" / version)
    keep_only(root, version, [*initramfs.module_names(), *names_in(_HERE / "modules.txt")])
    return version


def _modules_below(kernel: Path) -> Path:
    merged = kernel / "usr/lib/modules"
    return merged if merged.exists() else kernel / "lib/modules"


def _add_python(root: Path, log: int) -> None:
    """Put the wheels at /opt/python and compile all byte code with the guest's own Python: imports are slow in TCG."""
    uv = Path(sys.prefix) / "bin" / "uv"
    target = root / "opt/python"
    command: list[str | Path] = [uv, "pip", "install", "--quiet", "--target", target, "--python-version", PYTHON]
    command += ["--only-binary", ":all:", "--constraint", PROJECT / "requirements.lock"]
    _run(log, *command, *requirements())
    _run(log, "chroot", root, "python3", "-m", "compileall", "-q", "-j2", "/opt/python")
