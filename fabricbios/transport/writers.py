"""Who but us could have written a file or directory that says whom to trust or who we are (as sshd's StrictModes).

What root or the asking user owns, and nobody else may write to, is theirs. A group that is its owner's alone (user
private groups, where a umask of 002 is usual) is nobody else, as Debian's sshd has it. All else is refused, with the
remedy.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path


def objection(path: Path, found: os.stat_result, user: int | None = None) -> str:
    """Return why what `found` says of `path` is not to be relied on by `user` (us), "" if it is."""
    owners = (0, os.geteuid() if user is None else user)
    if found.st_uid not in owners:
        return f"belongs to user {found.st_uid}, who may change it: chown {owners[-1]} {path}"
    if found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not _is_private(found.st_gid, found.st_uid)):
        return f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o}): chmod go-w {path}"
    return ""


def directory_objection(path: Path, user: int | None = None, *, sticky: bool = False) -> str:
    """As `objection`, of a directory; one that is not there is nobody's. OSError where it cannot be looked at.

    With `sticky`, one such as /tmp will do: others may add files, which are theirs, but not change or replace ours.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return ""
    if sticky and found.st_mode & stat.S_ISVTX and found.st_uid == 0:
        return ""
    return objection(path, found, user)


def _is_private(group: int, user: int) -> bool:
    """Whether nobody but `user` is in `group`, as far as the databases of this machine know.

    It must bear the user's name, too: of those whose first group it is, the group itself says nothing, and a directory
    service need not list them all (where everybody's group is `users`, all of them may write).
    """
    try:
        owner, found = pwd.getpwuid(user), grp.getgrgid(group)
    except KeyError:
        return False
    alone = not any(other.pw_gid == group and other.pw_uid != user for other in pwd.getpwall())
    return alone and found.gr_name == owner.pw_name and set(found.gr_mem) <= {owner.pw_name}
