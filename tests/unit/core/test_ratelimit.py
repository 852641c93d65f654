from discovery_rig import at

from fabricbios.core.ratelimit import TokenBuckets


def test_a_burst_of_twenty_then_ten_a_second() -> None:
    buckets = TokenBuckets()
    assert sum(buckets.take("a", at()) for _ in range(100)) == 20
    assert sum(buckets.take("a", at(1)) for _ in range(100)) == 10
    assert sum(buckets.take("a", at(60)) for _ in range(100)) == 20  # a long silence earns one burst, no more


def test_sources_do_not_share() -> None:
    buckets = TokenBuckets(burst=1)
    assert buckets.take("a", at())
    assert not buckets.take("a", at())
    assert buckets.take("b", at())


def test_looking_takes_nothing() -> None:
    buckets = TokenBuckets(burst=1)
    assert not buckets.is_empty("a", at())
    assert buckets.take("a", at())
    assert buckets.is_empty("a", at())
    assert not buckets.is_empty("a", at(0.1))


def test_the_table_is_bounded_and_keeps_those_who_talk() -> None:
    buckets = TokenBuckets(burst=1, sources=100)
    assert buckets.take("loud", at())
    for i in range(1000):
        buckets.take(i, at())
        assert not buckets.take("loud", at())
    assert len(buckets) == 100
