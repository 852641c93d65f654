"""A crowd knows its fullest source whatever was added and removed before."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fabricbios.core.crowd import Crowd


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 5), st.integers(1, 4))))
def test_the_fullest_is_one_that_has_as_many_as_any(turns: list[tuple[str, int, int]]) -> None:
    crowd, model = Crowd(), dict[tuple[str, int], int]()
    for source, node_id, places in turns:  # whoever is there leaves, whoever is not comes
        if (source, node_id) in model:
            crowd.remove(source, node_id)
            del model[source, node_id]
        else:
            crowd.add(source, node_id, places)
            model[source, node_id] = places
        counts = Counter[str]()
        for (s, _), places in model.items():
            counts[s] += places
        assert {s: crowd.count(s) for s in "abcd"} == {s: counts[s] for s in "abcd"}
        fullest = crowd.fullest()
        assert (crowd.count(fullest) if fullest else 0) == max(counts.values(), default=0)
        for s in "abcd":
            assert list(crowd.of(s)) == [i for of, i in model if of == s]


def test_what_is_empty_is_not_kept() -> None:
    crowd = Crowd()
    for i in range(100):
        crowd.add(str(i), i)
        crowd.remove(str(i), i)
    assert not crowd._of
    assert not crowd._sized
    assert not crowd._count
    assert crowd.fullest() is None
