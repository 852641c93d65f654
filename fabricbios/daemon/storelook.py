"""One look at a store of block leases: is it there, whole and readable; and if it was gone, is it back.

What comes back is known by its identity, never by its path alone. It is looked for at the path of the configuration, so
that a name of /dev/disk/by-id finds a disk wherever it was plugged in.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from fabricbios.daemon.blockstores import another, known_of
from fabricbios.dataplane.store_faults import Faults
from fabricbios.errors import ConfigError
from fabricbios.hw.backing import Backing, open_backing
from fabricbios.hw.standing import is_same, standing_at
from fabricbios.hw.sysfs import Sysfs


class StoreLook:
    """At `backing`, which is configured as `path`; `force` is block_force's word on it.

    `faults` returns what was counted on it; `is_silent` says whether work on it is overdue.
    """

    def __init__(
        self,
        backing: Backing,
        path: str,
        force: bool = False,
        faults: Callable[[], Faults] = Faults,
        is_silent: Callable[[], bool] = lambda: False,
    ) -> None:
        self._backing, self.path, self._force = backing, path, force
        self.faults, self.is_silent = faults, is_silent

    @property
    def absence(self) -> OSError | None:
        """Return why it is not open, None while it is."""
        return self._backing.absence

    def look(self, is_suspect: bool) -> None:
        """Raise OSError where it is gone, or is suspect and nothing of it can be read. Blocks.

        What is gone for good is let go, what is back is taken in. A file that is still the one we have open, cut short
        or deleted, is kept: it alone can become whole again.
        """
        store = self._backing
        if store.absence is None:
            try:
                return _judge(store, is_suspect)
            except OSError as error:
                if not store.is_device and error.errno in (errno.ENXIO, errno.ENOENT):
                    raise
                store.let_go(error)
                raise  # the server process has it open still; the next look is for what is back
        self._return(is_suspect)

    def _return(self, is_suspect: bool) -> None:
        """Take it in again, OSError where it is not there."""
        try:
            found = self._found()
        except OSError as error:
            self._backing.absence = error
            raise
        try:
            self._judge_return(found, is_suspect)
        except OSError as error:
            found.close()
            self._backing.absence = error
            raise
        self._backing.take_in(found)

    def _found(self) -> Backing:
        """Open what stands at the path if it is the one; nothing else is opened."""
        known = known_of(self._backing)
        there = standing_at(Sysfs(), self.path)
        if not is_same((there.identity, there.generation), (known.identity, known.generation)):
            raise another(self.path, known, there.name)
        try:
            return open_backing(Sysfs(), self.path, None, force=self._force, ours={known.identity})
        except ConfigError as error:
            raise OSError(errno.EBUSY, str(error)) from error

    def _judge_return(self, found: Backing, is_suspect: bool) -> None:
        known = known_of(self._backing)
        if not found.is_same(known.identity, known.generation):  # it was another a moment ago
            raise another(self.path, known, found.name)
        if not found.is_known_anywhere:
            why = "what stands here has no serial number or WWID, and may be another disk: restart to lease it"
            raise OSError(errno.ENODEV, why, self.path)
        if found.size < known.size:
            raise OSError(errno.ENXIO, f"{found.size} bytes, less than the {known.size} it had", self.path)
        _judge(found, is_suspect)


def _judge(store: Backing, is_suspect: bool) -> None:
    store.check()
    if is_suspect:
        store.must_be_readable()
