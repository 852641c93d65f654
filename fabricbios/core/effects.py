"""What core wants done: each effect is carried out once, then reported back by the very same object.

Effects of one lease come strictly one after the other; those of different leases may run in parallel.
What each means to a driver is written at `ports.DataPlane`; entries go to the journal and are described
in `core.record`. A failure is reported with the OSError that happened.

Do and Undo bring the entries that belong around them. `before` is in the journal before the driver is called, or it
is not called at all and the Do has failed; `after` is there when the Do has succeeded. An Undo goes on without the
journal: what must end is only repeated after a restart.

| effect | carried out by                          | result of success            |
|--------|-----------------------------------------|------------------------------|
| Record | the journal                             | ()                           |
| Do     | DataPlane.do(step, lease)               | binding TLV values           |
| Undo   | DataPlane.undo(step, lease)             | ()                           |
| Adopt  | Adopter.adopt(lease), else failed       | ()                           |
| Renew  | DataPlane.renew(lease)                  | ()                           |
| Warn   | DataPlane.renew(lease)                  | ()                           |
| Rekey  | DataPlane.rekey(lease)                  | all binding TLV values again |
| Fence  | Fencer.fence(lease), else succeeded     | ()                           |
| Forget | DataPlane.forget(lease)                 | ()                           |

FENCE_CLEAR probes by the Undo of the steps that would not go: the probe is the remedy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fabricbios.ports import LeaseSpec

Entry = dict[str, Any]  # JSON-able


@dataclass(frozen=True, slots=True, eq=False)
class Effect:
    """Compared by identity: an effect is an errand, not a value. `lease` is None for the node's own Records."""

    lease: LeaseSpec | None


@dataclass(frozen=True, slots=True, eq=False)
class Record(Effect):
    """Append `entry`. With `durable` it must be on the disk, else only with the kernel, when it succeeds.

    A killed daemon loses nothing that the kernel has; `durable` is for what a power cut must not undo.
    """

    entry: Entry
    durable: bool


@dataclass(frozen=True, slots=True, eq=False)
class LeaseEffect(Effect):
    lease: LeaseSpec


@dataclass(frozen=True, slots=True, eq=False)
class Do(LeaseEffect):
    """`durable`: `before` must be on the disk, as of a Record."""

    step: str
    before: Entry | None = None
    after: Entry | None = None
    durable: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Undo(LeaseEffect):
    step: str
    before: Entry | None = None
    after: Entry | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Adopt(LeaseEffect):
    """A lease that the journal says was bound: say whether it is still bound whole (OSError if not)."""


@dataclass(frozen=True, slots=True, eq=False)
class Renew(LeaseEffect):
    """`lease` carries the new expires_ns and generation."""


@dataclass(frozen=True, slots=True, eq=False)
class Warn(Renew):
    """`lease` ends with the grace of its revocation: that binds in the data path while the daemon is stopped (D10)."""


@dataclass(frozen=True, slots=True, eq=False)
class Rekey(LeaseEffect):
    """`lease` carries the new dp_key."""


@dataclass(frozen=True, slots=True, eq=False)
class Fence(LeaseEffect):
    """From now on the data path may answer FENCED; best effort, access ended before or is refused by expiry."""


@dataclass(frozen=True, slots=True, eq=False)
class Forget(LeaseEffect):
    """30 s after teardown: the key that answered EXPIRED goes (D10)."""
