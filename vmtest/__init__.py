"""The QEMU test machine: a real Debian kernel with the modules that a build host lacks.

`python -m vmtest build` makes it (kernel, erofs root, initramfs; cached by content under .cache/vm),
`run` boots it once and runs pytest inside, `shell` gives a person a prompt. `replay` is the pytest
plugin that runs the items of tests/vm inside and shows each result outside. No run-time code of the
project depends on this package; `guest/` is what runs inside.
"""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
CACHE = PROJECT / ".cache" / "vm"


class Unavailable(Exception):
    """The test machine cannot be had on this host; the message is the probe that found out, and the remedy."""
