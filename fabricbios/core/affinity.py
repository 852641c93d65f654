"""Required affinities of a lease (TLV_LEASE_AFFINITY 0x0910): "filter stage, fail-closed".

Placing is a scheduler's work, but a node is the last to look: what it knows not to hold here, or cannot know, is not
met.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fabricbios.wire import LeaseAffinity
from fabricbios.wire.intents import ANTI_AFFINITY, AffinityStrength, AffinityTarget

Here = Mapping[AffinityTarget, Callable[[int], bool]]
"""By kind of target, whether one of that id is here. A kind that is missing is none that a node has: racks, services
and trust domains are the scheduler's, so nothing can be required to be near one, and everything is far from it."""


def unmet(intents: Iterable[Any], here: Here) -> str:
    """Say which required affinity this node does not meet, "" where it meets all there are."""
    for intent in intents:
        if isinstance(intent, LeaseAffinity) and _required(intent) and not _met(intent, here):
            apart = "not be with" if intent.strength & ANTI_AFFINITY else "be with"
            target = AffinityTarget(intent.target_type).name
            return f"the lease must {apart} {target} {intent.target.hex()}, which this node cannot give"
    return ""


def _required(intent: LeaseAffinity) -> bool:
    return intent.strength & ~ANTI_AFFINITY == AffinityStrength.REQUIRED


def _met(intent: LeaseAffinity, here: Here) -> bool:
    is_here = here.get(AffinityTarget(intent.target_type))
    found = is_here is not None and is_here(int.from_bytes(intent.target, "big"))
    return found is not bool(intent.strength & ANTI_AFFINITY)
