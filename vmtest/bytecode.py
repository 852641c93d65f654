"""Byte code of the checkout for the guest's Python, made on the host: compiling under TCG costs 40 s a boot.

The guest's interpreter runs here through its own loader, out of a small copy kept beside the image, so neither
chroot nor root is needed. The result is a layer that the guest lays over the checkout: `a/__pycache__/b.pyc` beside
`a/b.py`. Only what changed is compiled again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from vmtest import CACHE, PROJECT

_FOLDERS = ("fabricbios", "grafos", "tests", "vmtest", "bench")
_LIBRARIES = ("libc.so.6", "libm.so.6", "libz.so.1", "libexpat.so.1")
_LOADER = "ld-linux-x86-64.so.2"
# Some are large; sitecustomize.py is a link out of the copy.
_NOT_NEEDED = shutil.ignore_patterns("test", "idlelib", "tkinter", "lib-dynload", "ensurepip", "sitecustomize.py")
_COMPILE = """
import os, py_compile, sys
for line in sys.stdin:
    source, target, shown = line.rstrip("\\n").split("\\t")
    try:
        py_compile.compile(source, target, shown, doraise=True)
    except (py_compile.PyCompileError, OSError):
        pass  # half-written, or just gone: whoever imports it is told
"""


def keep_interpreter(root: Path, into: Path, version: str) -> None:
    """Copy the interpreter of the guest's `root`, with the libraries and modules that compiling takes."""
    (into / "lib").mkdir(parents=True)
    shutil.copy(root / f"usr/bin/python{version}", into / "python")
    for name in (_LOADER, *_LIBRARIES):
        shutil.copy(root / "usr/lib/x86_64-linux-gnu" / name, into / "lib" / name)
    shutil.copytree(root / f"usr/lib/python{version}", into / f"usr/lib/python{version}", ignore=_NOT_NEEDED)


def layer(interpreter: Path, tag: str) -> Path:
    """Bring the layer up to date and return its directory. `tag` is the interpreter's cache tag (cpython-313)."""
    directory = CACHE / f"bytecode-{tag}"
    directory.mkdir(parents=True, exist_ok=True)
    with (CACHE / "bytecode.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stale = "".join(_stale(directory, tag))
        if stale:
            loader = [str(interpreter / "lib" / _LOADER), "--library-path", str(interpreter / "lib")]
            environment = {"PYTHONHOME": str(interpreter / "usr"), "PATH": os.environ.get("PATH", "")}
            command = [*loader, str(interpreter / "python"), "-S", "-c", _COMPILE]
            subprocess.run(command, input=stale, text=True, check=True, env=environment)
    return directory


def _stale(directory: Path, tag: str) -> list[str]:
    """Return a line for each source without byte code as old as itself or younger: source, target, name inside."""
    lines = []
    for folder in _FOLDERS:
        for source in (PROJECT / folder).rglob("*.py"):
            name = source.relative_to(PROJECT)
            target = directory / name.parent / "__pycache__" / f"{name.stem}.{tag}.pyc"
            if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
                lines.append(f"{source}\t{target}\t/project/{name}\n")
    return lines
