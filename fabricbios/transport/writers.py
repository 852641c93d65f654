"""Who but us could have written a file or directory that says whom to trust or who we are (as sshd's StrictModes).

What root or the asking user owns, and nobody else may write to, is theirs. All else is refused, with the remedy.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def objection(path: Path, found: os.stat_result, user: int | None = None) -> str:
    """Return why what `found` says of `path` is not to be relied on by `user` (us), "" if it is."""
    owners = (0, os.geteuid() if user is None else user)
    if found.st_uid not in owners:
        return f"belongs to user {found.st_uid}, who may change it: chown {owners[-1]} {path}"
    if found.st_mode & _OTHERS_WRITE:
        return f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o}): chmod go-w {path}"
    return ""


def directory_objection(path: Path, user: int | None = None) -> str:
    """As `objection`, of a directory; one that is not there is nobody's. OSError where it cannot be looked at."""
    try:
        return objection(path, path.stat(), user)
    except FileNotFoundError:
        return ""
