"""Books and choices: what is taken comes back, fenced resources count, wishes are met or refused by name."""

import pytest

from fabricbios.core.admission import Admission, Offer, Wish
from fabricbios.core.policy import Limits
from fabricbios.errors import Refused
from fabricbios.model import Binding, DpAuth, Resource, ResourceFlags, ResourceType, Status
from fabricbios.ports import LeaseSpec


def offer(resource_id: int, kind: ResourceType = ResourceType.MEM, capacity: int = 100, **fields: object) -> Offer:
    resource = Resource(resource_id, kind, capacity, str(resource_id))
    given = {"bindings": (Binding.UDP,), "steps": lambda lease: (), "default": 10, **fields}
    return Offer(resource, **given)  # type: ignore[arg-type]


def lease(resource_id: int, size: int, kind: ResourceType = ResourceType.MEM, holder: int = 1) -> LeaseSpec:
    return LeaseSpec(9, resource_id, kind, Binding.UDP, size, holder, 1, DpAuth.HMAC_HEADER, b"", 3, 0)


def refused(book: Admission, wish: Wish, limits: Limits | None = None) -> Status:
    with pytest.raises(Refused) as caught:
        book.admit(wish, limits or Limits())
    return caught.value.status


def test_taken_and_given_back() -> None:
    book = Admission([offer(1)])
    book.take(lease(1, 60))
    assert (book.used(1), book.share(1)) == (60, (1, 60))
    assert refused(book, Wish(2, size=41)) is Status.CAPACITY_EXCEEDED
    assert book.admit(Wish(2, size=40), Limits()).size == 40
    book.give_back(lease(1, 60))
    assert (book.used(1), book.share(1)) == (0, (0, 0))


def test_sizes_are_whole_granules_and_defaults_are_the_offers() -> None:
    book = Admission([offer(1, granule=16)])
    assert book.admit(Wish(1), Limits()).size == 16
    assert book.admit(Wish(1, size=17), Limits()).size == 32
    assert book.admit(Wish(1, size=96), Limits()).size == 96
    assert refused(book, Wish(1, size=97)) is Status.CAPACITY_EXCEEDED


def test_a_small_lease_takes_a_whole_extent_of_the_capacity_and_counts_as_what_it_is() -> None:
    book = Admission([offer(1, granule=4, extent=40)])
    assert book.admit(Wish(1, size=5), Limits()).size == 8
    book.take(lease(1, 8))
    assert (book.used(1), book.share(1)) == (40, (1, 8))
    assert book.summaries()[0].available == 60
    assert refused(book, Wish(1, size=41)) is Status.CAPACITY_EXCEEDED
    book.take(lease(1, 40))
    assert refused(book, Wish(1, size=4)) is Status.CAPACITY_EXCEEDED
    book.give_back(lease(1, 8))
    assert book.admit(Wish(1, size=40), Limits()).size == 40


def test_a_fenced_resource_is_passed_over_until_its_last_fence_is_gone() -> None:
    book = Admission([offer(1), offer(2)])
    book.fence(1)
    book.fence(1)
    assert book.admit(Wish(1), Limits()).offer.resource.resource_id == 2
    assert refused(book, Wish(1, resource_id=1)) is Status.RESOURCE_FENCED
    book.unfence(1)
    assert refused(book, Wish(1, resource_id=1)) is Status.RESOURCE_FENCED
    book.unfence(1)
    assert book.admit(Wish(1, resource_id=1), Limits()).size == 10


def test_what_is_gone_is_refused_in_its_own_words_and_what_errs_is_granted() -> None:
    book = Admission([offer(1), offer(2)])
    book.lose(1)
    assert book.admit(Wish(1), Limits()).offer.resource.resource_id == 2
    with pytest.raises(Refused, match="is gone"):
        book.admit(Wish(1, resource_id=1), Limits())
    assert refused(book, Wish(1, resource_id=1)) is Status.RESOURCE_FENCED
    lost, well = book.summaries()
    assert (lost.flags, lost.available, well.flags) == (ResourceFlags.FENCED | ResourceFlags.DEGRADED, 0, 0)
    book.fence(1)  # a teardown that failed meanwhile outlives the return
    book.regain(1)
    assert book.summaries()[0].flags == ResourceFlags.FENCED
    book.unfence(1)
    book.degrade(1, True)
    assert (book.summaries()[0].flags, book.summaries()[0].available) == (ResourceFlags.DEGRADED, 100)
    assert book.admit(Wish(1, resource_id=1), Limits()).size == 10
    book.degrade(1, False)
    assert book.summaries()[0].flags == 0


def test_a_binding_chooses_among_resources() -> None:
    block = ResourceType.BLOCK
    book = Admission([offer(1, block), offer(2, block, bindings=(Binding.QUIC, Binding.NVMEOF))])
    granted = book.admit(Wish(1, kind=block, binding=0x0300), Limits())
    assert (granted.offer.resource.resource_id, granted.binding) == (2, Binding.NVMEOF)
    assert book.admit(Wish(1, resource_id=2), Limits()).binding is Binding.QUIC
    assert refused(book, Wish(1, resource_id=1, binding=0x0300)) is Status.INVALID_ARGS
    assert refused(book, Wish(1, resource_id=1, kind=ResourceType.MEM)) is Status.INVALID_ARGS


def test_cores_are_not_counted_as_bytes() -> None:
    book = Admission([offer(1, ResourceType.CPU, default=1), offer(2)])
    book.take(lease(1, 50, ResourceType.CPU))
    assert book.share(1) == (1, 0)
    assert book.admit(Wish(1, kind=ResourceType.CPU), Limits(max_bytes=0)).size == 1
    assert refused(book, Wish(1, kind=ResourceType.MEM), Limits(max_bytes=9)) is Status.CAPACITY_EXCEEDED


def test_an_offer_may_refuse_or_take_more_intents() -> None:
    picky = Admission([offer(1, refuses=lambda intent: f"no {intent}")])
    assert refused(picky, Wish(1, intents=("x",))) is Status.INVALID_ARGS
    assert picky.admit(Wish(1), Limits()).size == 10


def test_a_restored_lease_of_a_resource_that_is_gone_keeps_its_books() -> None:
    book = Admission([])
    book.take(lease(7, 5))
    assert book.summaries() == ()
    book.give_back(lease(7, 5))
    assert book.used(7) == 0


def test_only_wishes_that_mean_something_are_remembered() -> None:
    book = Admission([offer(1)])
    for nth in range(5):
        assert refused(book, Wish(1, resource_id=100 + nth)) is Status.RESOURCE_NOT_FOUND
        assert refused(book, Wish(1, binding=0x9000 + nth)) is Status.INVALID_ARGS
    assert not book._meant
    book.admit(Wish(1), Limits())
    assert list(book._meant) == [(0, None, None)]
