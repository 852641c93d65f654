"""A relay's table under every order of coming, going and running out: its books and bounds, and who gives way."""

from discovery_rig import announcing, at, key
from effort import effort
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fabricbios.core.heard import LOOPBACK, MIN_SHARE, PLACE, Heard, HeardNodes, Put, Standing, source_of
from fabricbios.wire.discovery import Announce
from fabricbios.wire.frame import Frame

SAMPLE = Announce.unpack(Frame.unpack(announcing(key(1), at())[1][0]).payload)
ROOM = 8
NODES, HOSTS = (
    st.integers(0, 11),
    st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "127.0.0.1"]),
)
STANDING = st.sampled_from(list(Standing))


class Table(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.nodes, self.now, self.sequence = HeardNodes(ROOM), at(), 0
        self.nodes._share = 3  # so that shares fill before the table does
        self.nodes._places = lambda h: min(-(-len(h.listed) // PLACE) or 1, 2)  # in a small table all count for one

    def held(self) -> dict[int, Heard]:
        return dict(self.nodes._nodes)

    @rule(node=NODES, host=HOSTS, standing=STANDING, ttl=st.integers(0, 20), length=st.integers(0, 3 * PLACE))
    def announce(self, node: int, host: str, standing: Standing, ttl: int, length: int) -> None:
        self.sequence += 1
        before = self.held()
        said = SAMPLE.replace(node_id=node, sequence=self.sequence, ttl_secs=ttl)
        outcome = self.nodes.put(said, bytes(length), standing, host, self.now)
        gone = before.keys() - self.held().keys()
        if outcome in (Put.FULL, Put.SOURCE_FULL):
            assert self.held() == before
            return
        assert self.nodes.get(node).announce.sequence == self.sequence
        assert not self.nodes.is_new(node, self.sequence)
        assert bool(gone) is (outcome is Put.DISPLACED)
        for victim in gone:
            assert before[victim].standing is not Standing.VOUCHED
            assert before[victim].standing <= standing

    @rule(node=NODES, host=HOSTS)
    def answer(self, node: int, host: str) -> None:
        before = self.nodes.get(node)
        reached = self.nodes.reach(node, host)
        assert reached is (before is not None and before.source == source_of(host))
        assert not reached or self.nodes.get(node).standing >= Standing.REACHED

    @rule(node=NODES)
    def withdraw(self, node: int) -> None:
        self.nodes.drop(node, 0)
        assert self.nodes.get(node) is None

    @rule(seconds=st.integers(0, 10))
    def wait(self, seconds: int) -> None:
        self.now = self.now._replace(boot_ns=self.now.boot_ns + seconds * 10**9)
        self.nodes.expire(self.now)
        assert all(h.until_ns > self.now.boot_ns for h in self.held().values())

    @rule(standing=STANDING)
    def distrust(self, standing: Standing) -> None:
        self.nodes.recheck(lambda heard: heard.standing is not standing)

    @invariant()
    def the_books_are_right(self) -> None:
        assert len(self.nodes) <= ROOM
        for standing, crowd in self.nodes._crowds.items():
            counted = {i: (source, n) for source, ids in crowd._of.items() for i, n in ids.items()}
            held = {i: h for i, h in self.held().items() if h.standing is standing}
            assert counted == {i: (h.source, self.nodes._places(h)) for i, h in held.items()}
        assert self.nodes._used == sum(map(self.nodes._places, self.held().values())) <= ROOM
        for source in {h.source for h in self.held().values()} - {LOOPBACK}:
            assert self.nodes._count(source) <= 3


TestTable = Table.TestCase
TestTable.settings = settings(max_examples=effort(quick=20, full=60), stateful_step_count=40, deadline=None)


def test_who_moves_to_an_address_that_answered_nothing_is_a_stranger_there() -> None:
    nodes = HeardNodes(10 * MIN_SHARE)
    for sequence, (standing, host, then) in enumerate(
        [
            (Standing.REACHED, "192.0.2.1", Standing.REACHED),
            (Standing.STRANGER, "192.0.2.1", Standing.REACHED),  # its address has answered before
            (Standing.STRANGER, "192.0.2.2", Standing.STRANGER),
            (Standing.VOUCHED, "192.0.2.2", Standing.VOUCHED),
            (Standing.STRANGER, "192.0.2.2", Standing.STRANGER),  # a certificate that is over proved no address
        ]
    ):
        nodes.put(SAMPLE.replace(node_id=1, sequence=sequence), b"", standing, host, at())
        assert nodes.get(1).standing is then
