from fabricbios.daemon.orphans import release_orphans


class Keeps:
    """A plane that holds leases; those in `stuck` will not go."""

    def __init__(self, held, stuck=()):
        self.held, self.stuck = set(held), set(stuck)

    def orphans(self, known):
        return self.held - known

    def release(self, lease_id):
        if lease_id in self.stuck:
            raise OSError(16, "busy")
        self.held.discard(lease_id)


def test_what_no_journal_knows_is_taken_back_and_the_rest_is_left():
    plane = Keeps({1, 2, 3})
    assert release_orphans([plane, object()], {2}) == set()
    assert plane.held == {2}


def test_bytes_that_are_still_served_are_not_wiped():
    above, below = Keeps({1, 2}, stuck={1}), Keeps({1, 2, 3})
    assert release_orphans([above, below], set()) == {1}
    assert below.held == {1}
    above.stuck.clear()
    assert release_orphans([above, below], set()) == set()
    assert above.held == below.held == set()
