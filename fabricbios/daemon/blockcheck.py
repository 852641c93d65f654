"""What XDP does for the block plane: its leases lie in the table that the programs look at, beside those of memory.

The server that gets what the programs let through trusts them in nothing: it makes every check of D10 itself, because
a datagram comes to its socket by other ways, too (an interface without XDP, IP options), and cannot say by which. So
there is one owner of a lease's replay window, the server process. The programs only look at it: they drop what was
taken already, and whatever two of them let through at once the server takes once. When no process has the socket any
more, and so nobody else marks the window, the programs take nonces themselves, to answer that a lease is over
(bpf/socket.h); `quiesce` stands between that and the next server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fabricbios.dataplane.shared import LeaseBoard
from fabricbios.dataplane.slots import SlotTable

Counters = dict[str, dict[str, dict[str, int]]]  # path label -> counters.read_counters()


class BlockCheck(NamedTuple):
    """`label` is xdp_native or xdp_generic, `reason` how each interface is served, for people."""

    label: str
    reason: str
    board: LeaseBoard
    table: SlotTable
    counters: Callable[[], Counters]
    quiesce: Callable[[], None]
