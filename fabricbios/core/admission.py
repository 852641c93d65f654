"""Who gets how much: offers, their capacity, and each identity's share (D6, D8, `core.policy`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from fabricbios.core.intents import refuse_unoffered
from fabricbios.core.policy import COUNTED_IN_BYTES, LEASABLE, Limits
from fabricbios.errors import Refused
from fabricbios.model import Binding, DpAuth, Resource, ResourceFlags, ResourceType, Status
from fabricbios.ports import LeaseSpec
from fabricbios.wire import ResourceSummary

DEFAULT_BYTES = 1 << 20  # wire encoding, LEASE_ALLOC
_BINDINGS = {int(binding): binding for binding in Binding}
_DP_AUTHS = {int(dp_auth): dp_auth for dp_auth in DpAuth}


class Offer(NamedTuple):
    """One resource as it may be leased. `granule`, `extent` and `default` count in the kind's unit (D4).

    A lease's size is whole granules, what it takes of the capacity whole extents: a disk is carved in
    larger pieces than a small lease is granted.
    `steps` names a lease's plan, in order; it is pure. `refuses` says why an intent is not offered by
    this device, "" when it is; the default knows the intents of D1's tables and offers the plain ones.
    """

    resource: Resource
    bindings: tuple[Binding, ...]
    steps: Callable[[LeaseSpec], tuple[str, ...]]
    dp_auths: tuple[DpAuth, ...] = tuple(DpAuth)
    granule: int = 1
    extent: int = 1
    default: int = DEFAULT_BYTES
    refuses: Callable[[Any], str] = refuse_unoffered


class Wish(NamedTuple):
    """What LEASE_ALLOC asks for; None and 0 where it leaves the choice to the node."""

    holder: int
    resource_id: int = 0
    kind: ResourceType | None = None
    size: int | None = None
    binding: int | None = None
    dp_auth: int | None = None
    intents: tuple[Any, ...] = ()


class Granted(NamedTuple):
    offer: Offer
    binding: Binding
    dp_auth: DpAuth
    size: int


class Share:
    """What one identity holds now."""

    __slots__ = ("leases", "size")

    def __init__(self) -> None:
        self.leases = 0
        self.size = 0  # of kinds counted in bytes


_NOTHING = Share()


class Admission:
    """Books of what is held. `take` and `give_back` come in pairs, a lease each."""

    def __init__(self, offers: Iterable[Offer]) -> None:
        self.offers: dict[int, Offer] = {o.resource.resource_id: o for o in offers}
        self._used: dict[int, int] = {}
        self._fenced: dict[int, int] = {}  # leases FENCED on a resource
        self._lost: set[int] = set()  # resources whose hardware is gone
        self._degraded: set[int] = set()  # and those whose hardware errs
        self._shares: dict[int, Share] = {}
        self._meant: dict[tuple[int, int | None, int | None], list[Offer]] = {}  # by a wish's id, kind and binding

    def used(self, resource_id: int) -> int:
        return self._used.get(resource_id, 0)

    def fenced(self, resource_id: int) -> bool:
        """Say whether nobody is granted anything of it: a teardown failed there, or what it is made of is gone."""
        return resource_id in self._fenced or resource_id in self._lost

    def share(self, holder: int) -> tuple[int, int]:
        """Return how many leases an identity holds, and how many bytes."""
        share = self._shares.get(holder, _NOTHING)
        return share.leases, share.size

    def take(self, spec: LeaseSpec) -> None:
        self._used[spec.resource_id] = self.used(spec.resource_id) + self._taken(spec)
        share = self._shares.get(spec.holder)
        if share is None:
            share = self._shares[spec.holder] = Share()
        share.leases += 1
        share.size += spec.size if spec.kind in COUNTED_IN_BYTES else 0

    def give_back(self, spec: LeaseSpec) -> None:
        self._used[spec.resource_id] -= self._taken(spec)
        share = self._shares[spec.holder]
        share.leases -= 1
        share.size -= spec.size if spec.kind in COUNTED_IN_BYTES else 0
        if not share.leases:
            del self._shares[spec.holder]

    def _taken(self, spec: LeaseSpec) -> int:
        """Return what a lease takes of its resource; one of a resource that is offered no more has its size."""
        offer = self.offers.get(spec.resource_id)
        return spec.size if offer is None else _whole(spec.size, offer.extent)

    def fence(self, resource_id: int) -> None:
        self._fenced[resource_id] = self._fenced.get(resource_id, 0) + 1

    def unfence(self, resource_id: int) -> None:
        self._fenced[resource_id] -= 1
        if not self._fenced[resource_id]:
            del self._fenced[resource_id]

    def lose(self, resource_id: int) -> None:
        self._lost.add(resource_id)

    def regain(self, resource_id: int) -> None:
        self._lost.discard(resource_id)

    def degrade(self, resource_id: int, errs: bool) -> None:
        """Flag a resource DEGRADED, or no more; it is granted all the same."""
        (self._degraded.add if errs else self._degraded.discard)(resource_id)

    def summaries(self) -> tuple[ResourceSummary, ...]:
        """Return what ANNOUNCE and GET_INVENTORY say: a fenced resource has nothing available."""
        return tuple(map(self._summary, self.offers.values()))

    def _summary(self, offer: Offer) -> ResourceSummary:
        r = offer.resource
        fenced = self.fenced(r.resource_id)
        free = 0 if fenced else max(0, r.capacity - self.used(r.resource_id))
        flags = ResourceFlags.FENCED if fenced else ResourceFlags(0)
        if r.resource_id in self._degraded or r.resource_id in self._lost:
            flags |= ResourceFlags.DEGRADED
        return ResourceSummary(r.resource_id, int(r.kind), int(flags), r.capacity, free)

    def admit(self, wish: Wish, limits: Limits) -> Granted:
        """Choose what fulfils `wish`, or raise Refused with the status of D6. Takes nothing yet."""
        candidates = self._candidates(wish)
        kind = candidates[0].resource.kind
        if kind not in limits.kinds:
            raise Refused.of(Status.INSUFFICIENT_PERM, f"policy allows no {kind.name} lease")
        offer, size = self._with_room(candidates, wish.size)
        binding = offer.bindings[0] if wish.binding is None else _BINDINGS[wish.binding]
        dp_auth = _dp_auth(offer, wish.dp_auth)
        for intent in wish.intents:
            if why := offer.refuses(intent):
                raise Refused.of(Status.INVALID_ARGS, why)
        self._check_quota(wish.holder, size if kind in COUNTED_IN_BYTES else 0, limits)
        return Granted(offer, binding, dp_auth, size)

    def _candidates(self, wish: Wish) -> list[Offer]:
        """Return the offers that a wish means, never an empty list. The offers never change, and what means none is
        refused: at most one list for each of their ids and kinds with each of their bindings is remembered."""
        meant = wish.resource_id, wish.kind, wish.binding
        candidates = self._meant.get(meant)
        if candidates is None:
            named = self._named(wish)
            candidates = self._meant[meant] = named if wish.binding is None else _bound_by(named, wish.binding)
        return candidates

    def _named(self, wish: Wish) -> list[Offer]:
        """Return the offers that a resource_id or a type means; never an empty list."""
        if wish.resource_id:
            offer = self.offers.get(wish.resource_id)
            if offer is None:
                raise Refused.of(Status.RESOURCE_NOT_FOUND, "no such resource on this node")
            if wish.kind not in (None, offer.resource.kind):
                raise Refused.of(Status.INVALID_ARGS, f"that resource is {offer.resource.kind.name}")
            return [offer]
        kind = ResourceType.MEM if wish.kind is None else wish.kind
        found = [o for o in self.offers.values() if o.resource.kind is kind]
        if kind not in LEASABLE:
            raise Refused.of(Status.INVALID_ARGS, f"{kind.name} cannot be leased")
        if not found:
            raise Refused.of(Status.RESOURCE_NOT_FOUND, f"this node offers no {kind.name}")
        return found

    def _with_room(self, candidates: list[Offer], wanted: int | None) -> tuple[Offer, int]:
        """Return the first that has room, and the size of the lease there."""
        sound = False
        for offer in candidates:
            resource = offer.resource
            if self.fenced(resource.resource_id):
                continue
            sound, size = True, _size(offer, wanted)
            if self.used(resource.resource_id) + _whole(size, offer.extent) <= resource.capacity:
                return offer, size
        if sound:
            raise Refused.of(Status.CAPACITY_EXCEEDED, "that much is not free")
        if all(o.resource.resource_id in self._lost for o in candidates):
            raise Refused.of(Status.RESOURCE_FENCED, "what it is made of is gone: nothing is granted until it is back")
        raise Refused.of(Status.RESOURCE_FENCED, "teardown failed there: an admin must clear the fence")

    def _check_quota(self, holder: int, more: int, limits: Limits) -> None:
        share = self._shares.get(holder, _NOTHING)
        if share.leases >= limits.max_leases:
            raise Refused.of(Status.CAPACITY_EXCEEDED, f"policy allows {limits.max_leases} leases")
        if share.size + more > limits.max_bytes:
            raise Refused.of(Status.CAPACITY_EXCEEDED, f"policy allows {limits.max_bytes} bytes")


def _bound_by(offers: list[Offer], binding: int) -> list[Offer]:
    """Return the offers that have this binding; never an empty list."""
    found = [o for o in offers if binding in o.bindings]
    if not found:
        known = _BINDINGS.get(binding)
        name = f"{binding:#06x}" if known is None else known.name
        raise Refused.of(Status.INVALID_ARGS, f"binding {name} is not offered")
    return found


def _dp_auth(offer: Offer, wanted: int | None) -> DpAuth:
    """D10: who asks for nothing gets HMAC_HEADER, or the first offered where that is not."""
    if wanted is None:
        plain = not offer.dp_auths or DpAuth.HMAC_HEADER in offer.dp_auths
        return DpAuth.HMAC_HEADER if plain else offer.dp_auths[0]
    if wanted not in offer.dp_auths:
        raise Refused.of(Status.INVALID_ARGS, f"DP_AUTH {wanted} is not offered")
    return _DP_AUTHS[wanted]


def _size(offer: Offer, wanted: int | None) -> int:
    """Return the size in whole granules."""
    size = offer.default if wanted is None else wanted
    if size <= 0:
        raise Refused.of(Status.INVALID_ARGS, "nothing was asked for")
    return _whole(size, offer.granule)


def _whole(size: int, piece: int) -> int:
    """Return the size rounded up to whole pieces."""
    return -(-size // piece) * piece
