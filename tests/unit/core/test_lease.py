"""The lease machine alone: plans, failures, fencing, renewals, and that nothing survives a teardown."""

import random

import pytest

from fabricbios.core.effects import Adopt, Do, Effect, Entry, Fence, Forget, Record, Rekey, Renew, Undo, Warn
from fabricbios.core.happened import Cause, Job, What
from fabricbios.core.lease import TRANSITIONS, UNDO_FOR_NS, Lease
from fabricbios.core.record import fold
from fabricbios.errors import LocalMisuse
from fabricbios.model import NS, Binding, DpAuth, Instant, LeaseState, ResourceType
from fabricbios.ports import LeaseSpec

T0 = Instant(0, 1_000_000)
SPEC = LeaseSpec(7, 1, ResourceType.MEM, Binding.UDP, 4096, 9, 1, DpAuth.HMAC_HEADER, bytes(32), 3, expires_ns=10 * NS)


def at(seconds: float) -> Instant:
    return Instant(int(seconds * NS), 1_000_000 + int(seconds * 1000))


def fresh(plan: tuple[str, ...] = ("a", "b"), grace: float = 0) -> Lease:
    return Lease(SPEC, plan, int(grace * NS), 1010, "boot")


def run(lease: Lease, now: Instant = T0, fail: tuple[type[Effect], str] | None = None) -> tuple[list[str], list[What]]:
    """Carry out effects until there are none; those of `fail` (kind, step or rec) fail. A step's name has before and
    behind it what the journal is told then."""
    names, whats = [], []
    while (effect := lease.next_effect()) is not None:
        detail = effect.entry["rec"] if isinstance(effect, Record) else getattr(effect, "step", "")
        entries = (effect.before, effect.after) if isinstance(effect, Do | Undo) else (None, None)
        before, after = (entry["rec"] if entry else "" for entry in entries)
        names.append(" ".join(word for word in (before, type(effect).__name__, detail, after) if word))
        if fail is not None and isinstance(effect, fail[0]) and fail[1] in ("", detail):
            happened = lease.effect_failed(effect, OSError(5, "no"), now)
        else:
            happened = lease.effect_succeeded(effect, (), now)
        whats += [h.what for h in happened]
    return names, whats


def bound(grace: float = 0) -> Lease:
    lease = fresh(grace=grace)
    run(lease)
    assert lease.state is LeaseState.ACTIVE
    return lease


def test_binding_is_recorded_first_and_goes_in_order() -> None:
    assert run(fresh()) == (["lease Do a", "Do b bound"], [What.BOUND])


def test_teardown_goes_backward_and_is_recorded_around() -> None:
    lease = bound()
    assert [h.what for h in lease.tear_down(Cause.FREED, T0)] == [What.ENDING]
    assert run(lease) == (["down Undo b", "Undo a end"], [What.FREED])
    assert lease.state is LeaseState.FREE


def test_a_do_that_failed_is_undone_too() -> None:
    names, whats = run(fresh(), fail=(Do, "b"))
    assert names == ["lease Do a", "Do b bound", "down Undo b", "Undo a end"]
    assert whats == [What.BIND_FAILED, What.ENDING, What.FREED]


def test_what_may_have_been_begun_and_recorded_is_undone_and_recorded() -> None:
    names, whats = run(fresh(), fail=(Do, "a"))
    assert names == ["lease Do a", "down Undo a end"]
    assert What.BOUND not in whats
    assert What.FREED in whats


def test_a_plan_has_steps() -> None:
    with pytest.raises(LocalMisuse):
        fresh(())


def test_an_undo_that_is_tried_again_is_recorded_once() -> None:
    lease = bound()
    lease.tear_down(Cause.FREED, T0)
    assert run(lease, fail=(Undo, "b"))[0] == ["down Undo b"]
    now = Instant(lease.next_deadline() or 0, 0)
    lease.handle_timer(now)
    assert run(lease, now)[0] == ["Undo b", "Undo a end"]


def test_a_revoke_during_a_step_waits_for_it() -> None:
    lease = fresh()
    run_one = lease.next_effect()
    assert lease.tear_down(Cause.REVOKED, T0) == []
    assert lease.next_effect() is None
    assert lease.state is LeaseState.PENDING
    assert run_one is not None
    happened = lease.effect_succeeded(run_one, (), T0)
    assert [h.what for h in happened] == [What.BIND_FAILED, What.ENDING]
    assert run(lease)[0] == ["down Undo a end"]


def test_a_journal_that_is_written_anew_during_a_step_says_that_it_was_begun() -> None:
    lease, stages = fresh(), []

    def run_all() -> None:
        while (effect := lease.next_effect()) is not None:
            kept = lease.kept()
            stages.append((kept.stage, kept.cause) if kept else None)
            lease.effect_succeeded(effect, (), T0)

    run_all()
    lease.tear_down(Cause.FREED, T0)
    run_all()
    assert stages == [("lease", ""), ("lease", ""), ("down", "freed"), ("down", "freed")]
    assert lease.kept() is None


def test_what_nobody_began_needs_no_teardown() -> None:
    lease = fresh()
    happened = lease.tear_down(Cause.REVOKED, T0)
    assert [h.what for h in happened] == [What.BIND_FAILED, What.ENDING, What.FREED]
    assert run(lease)[0] == []


def test_an_effect_is_reported_once_and_by_the_same_object() -> None:
    lease = fresh()
    effect = lease.next_effect()
    assert effect is not None
    lease.effect_succeeded(effect, (), T0)
    with pytest.raises(LocalMisuse):
        lease.effect_succeeded(effect, (), T0)


def test_undo_is_retried_for_five_seconds_then_fenced_and_told() -> None:
    lease = bound()
    lease.tear_down(Cause.REVOKED, T0)
    run(lease, fail=(Undo, "b"))
    tries = 1
    while lease.state is LeaseState.TEARING_DOWN:
        due = lease.next_deadline()
        assert due is not None
        now = Instant(due, 0)
        lease.handle_timer(now)
        names, whats = run(lease, now, fail=(Undo, "b"))
        tries += sum("Undo b" in name for name in names)
    assert now.boot_ns == UNDO_FOR_NS
    assert 6 <= tries <= 20
    assert What.FENCED in whats
    assert names[-3:] == ["Undo b", "Record fenced", "Fence"]
    assert whats == [What.FENCED], "once it is recorded and the data path answers so"
    assert lease.next_deadline() is None
    assert lease.next_effect() is None


def fenced() -> Lease:
    lease = bound()
    lease.tear_down(Cause.REVOKED, T0)
    while lease.state is not LeaseState.FENCED:
        now = Instant(lease.next_deadline() or 0, 0)
        lease.handle_timer(now)
        run(lease, now, fail=(Undo, "b"))
    return lease


def test_clearing_probes_and_stays_fenced_while_the_step_fails() -> None:
    lease = fenced()
    lease.clear()
    assert run(lease, fail=(Undo, "b")) == (["Undo b"], [What.CLEAR_FAILED])
    lease.clear()
    assert run(lease) == (["Undo b", "Undo a end"], [What.FREED])


def test_only_a_fenced_lease_is_cleared() -> None:
    with pytest.raises(LocalMisuse):
        bound().clear()


def test_grace_holds_the_lease_and_a_renewal_brings_it_back() -> None:
    lease = bound(grace=5)
    assert lease.next_deadline() == 10 * NS
    assert [h.what for h in lease.handle_timer(at(10))] == [What.EXPIRED]
    assert lease.state is LeaseState.GRACE
    assert run(lease)[0] == []
    lease.change(Job("asker", 30 * NS, 1030))
    assert run(lease, at(11)) == (["Record renew", "Renew"], [What.RENEWED])
    assert (lease.state, lease.spec.generation, lease.spec.expires_ns) == (LeaseState.ACTIVE, 2, 30 * NS)
    assert lease.ends_unix == 1030


def test_grace_ends_in_teardown() -> None:
    lease = bound(grace=5)
    lease.handle_timer(at(10))
    assert lease.next_deadline() == 15 * NS
    assert [h.what for h in lease.handle_timer(at(15))] == [What.ENDING]
    assert lease.cause is Cause.EXPIRED


def test_a_timer_that_comes_after_grace_says_expired_once_and_ends() -> None:
    lease = bound(grace=5)
    assert [h.what for h in lease.handle_timer(at(100))] == [What.EXPIRED, What.ENDING]


def test_a_renewal_never_shortens_but_raises_the_generation() -> None:
    lease = bound()
    lease.change(Job(None, 3 * NS, 1003))
    run(lease)
    assert (lease.spec.expires_ns, lease.ends_unix, lease.spec.generation) == (10 * NS, 1010, 2)


def test_a_renewal_accepted_before_the_end_is_decided_first() -> None:
    lease = bound()
    lease.change(Job(None, 30 * NS, 1030))
    assert lease.next_deadline() is None
    assert lease.handle_timer(at(11)) == []
    run(lease, at(11))
    assert lease.state is LeaseState.ACTIVE
    assert lease.next_deadline() == 30 * NS


def test_a_renewal_that_failed_is_taken_back() -> None:
    lease = bound()
    lease.change(Job(None, 30 * NS, 1030))
    seen: list[int] = []
    while (effect := lease.next_effect()) is not None:
        if isinstance(effect, Renew):
            seen.append(effect.lease.expires_ns)
        if seen == [30 * NS]:
            lease.effect_failed(effect, OSError(5, "no"), T0)
        else:
            happened = lease.effect_succeeded(effect, (), T0)
    assert seen == [30 * NS, 10 * NS]
    assert happened[0].what is What.CHANGE_FAILED
    assert (lease.state, lease.spec.generation) == (LeaseState.ACTIVE, 1)


def entries_of(effect: Effect) -> list[Entry]:
    """Return what the journal holds of an effect that succeeded."""
    around = (effect.before, effect.after) if isinstance(effect, Do | Undo) else ()
    entries = (effect.entry,) if isinstance(effect, Record) else around
    return [entry for entry in entries if entry is not None]


@pytest.mark.parametrize("full", [False, True], ids=["written", "the journal fails by then"])
def test_the_journal_too_takes_back_a_renewal_that_failed(full: bool) -> None:
    """A successor must not adopt the lease with an end that was refused."""
    lease = fresh()
    journal: list[Entry] = []
    names: list[str] = []
    while (effect := lease.next_effect()) is not None:
        names.append(type(effect).__name__)
        first_renewal = names.count("Renew") == 1 and isinstance(effect, Renew)
        if first_renewal or (full and "Renew" in names and isinstance(effect, Record)):
            happened = lease.effect_failed(effect, OSError(28, "no"), T0)
            continue
        journal += entries_of(effect)
        happened = lease.effect_succeeded(effect, (), T0)
        if happened and happened[0].what is What.BOUND:
            lease.change(Job("asker", 30 * NS, 1030))
    assert names[2:] == ["Record", "Renew", "Record", "Renew"]
    assert [(h.what, h.job.asker) for h in happened if h.job] == [(What.CHANGE_FAILED, "asker")]
    kept = fold(journal).leases[7]
    assert (kept.spec.expires_ns, kept.ends_unix, kept.spec.generation) == (
        (30 * NS, 1030, 2) if full else (10 * NS, 1010, 1)
    )
    assert (lease.kept() or kept).spec.expires_ns == 10 * NS


def test_a_lease_whose_end_nobody_knows_is_torn_down() -> None:
    lease = bound()
    lease.change(Job(None, 30 * NS, 1030))
    _, whats = run(lease, fail=(Renew, ""))
    assert whats[:2] == [What.CHANGE_FAILED, What.ENDING]
    assert lease.state is LeaseState.FREE


def test_changes_queue_up_and_are_refused_when_the_lease_ends() -> None:
    lease = bound()
    lease.change(Job("first", 30 * NS, 1030))
    lease.change(Job("second", dp_key=b"k" * 32))
    effect = lease.next_effect()
    assert effect is not None
    lease.tear_down(Cause.REVOKED, T0)
    happened = lease.effect_succeeded(effect, (), T0)
    assert [(h.what, h.job.asker) for h in happened if h.job] == [
        (What.CHANGE_REFUSED, "first"),
        (What.CHANGE_REFUSED, "second"),
    ]


def test_so_many_changes_may_wait_and_no_more() -> None:
    lease = bound()
    for _ in range(8):
        lease.change(Job(None, 30 * NS, 1030))
    assert lease.full
    with pytest.raises(LocalMisuse):
        lease.change(Job(None, 30 * NS, 1030))


def test_rekeying_takes_the_new_key_only_when_it_holds() -> None:
    lease = bound()
    lease.change(Job(None, dp_key=b"n" * 32, reached="::1"))
    effect = lease.next_effect()
    assert isinstance(effect, Rekey)
    assert lease.spec.dp_key == bytes(32)
    lease.effect_succeeded(effect, (), T0)
    assert (lease.spec.dp_key, lease.spec.reached) == (b"n" * 32, "::1")


def test_a_warning_ends_with_its_grace_or_with_the_lease() -> None:
    lease = bound()
    lease.warn(4 * NS)
    assert run(lease)[0] == ["Record warned", "Warn"]
    assert lease.next_deadline() == 4 * NS
    late = bound()
    late.warn(400 * NS)
    assert late.next_deadline() == 10 * NS
    assert [h.what for h in lease.handle_timer(at(4))] == [What.ENDING]
    assert lease.cause is Cause.REVOKED


def told(lease: Lease) -> int:
    """Return the end that the next effect gives the data path."""
    effect = lease.next_effect()
    while isinstance(effect, Record):
        lease.effect_succeeded(effect, (), T0)
        effect = lease.next_effect()
    assert effect is not None
    assert effect.lease is not None
    lease.effect_succeeded(effect, (), T0)
    return effect.lease.expires_ns


def test_the_data_path_is_told_when_a_revocations_grace_ends() -> None:
    """Revocation binds there while the daemon is stopped (D10): nothing may say a later end afterwards."""
    lease = bound()
    lease.change(Job("asked before", expires_ns=50 * NS, ends_unix=1050))
    lease.change(Job("attach", dp_key=b"n" * 32))
    lease.warn(4 * NS)
    assert [told(lease) for _ in range(3)] == [4 * NS] * 3  # Warn, Renew, Rekey
    lease.warn(2 * NS)
    assert told(lease) == 2 * NS
    assert lease.spec.expires_ns == 50 * NS
    kept = lease.kept()
    assert kept is not None
    again = Lease.restore(kept, "boot", at(1))
    assert told(again) == 2 * NS
    assert run(again)[0] == []


def test_a_warning_that_the_data_path_does_not_take_changes_nothing_else() -> None:
    lease = bound()
    lease.warn(4 * NS)
    assert run(lease, fail=(Warn, "")) == (["Record warned", "Warn"], [])
    assert (lease.state, lease.next_deadline()) == (LeaseState.WARNED, 4 * NS)


def test_a_second_warning_only_shortens() -> None:
    lease = bound()
    lease.warn(4 * NS)
    lease.warn(6 * NS)
    assert lease.next_deadline() == 4 * NS
    lease.warn(2 * NS)
    assert lease.next_deadline() == 2 * NS


def test_the_key_is_forgotten_thirty_seconds_later_and_once() -> None:
    lease = bound()
    lease.tear_down(Cause.FREED, at(1))
    run(lease, at(2))
    assert lease.next_deadline() == 32 * NS
    lease.handle_timer(at(32))
    assert run(lease) == (["Forget"], [What.FORGOTTEN])
    assert lease.next_deadline() is None
    assert lease.next_effect() is None


def test_a_whole_lease_is_adopted_and_a_half_one_undone() -> None:
    kept = bound().kept()
    assert kept is not None
    lease = Lease.restore(kept, "boot", at(1))
    assert isinstance(lease.next_effect(), Adopt)
    again = Lease.restore(kept, "boot", at(1))
    assert run(again) == (["Adopt"], [What.ADOPTED])
    assert again.state is LeaseState.ACTIVE
    refused = Lease.restore(kept, "boot", at(1))
    assert run(refused, fail=(Adopt, ""))[0] == ["Adopt", "down Undo b", "Undo a end"]


@pytest.mark.parametrize(
    ("change", "boot", "now", "cause"),
    [
        ({"stage": "lease"}, "boot", 1, Cause.REVOKED),
        ({"stage": "down", "cause": "freed"}, "boot", 1, Cause.FREED),
        ({}, "another boot", 1, Cause.REVOKED),
        ({}, "another boot", 2000, Cause.EXPIRED),
        ({}, "boot", 10, Cause.EXPIRED),
    ],
)
def test_whatever_else_is_found_is_torn_down(change: dict[str, str], boot: str, now: float, cause: Cause) -> None:
    kept = bound().kept()
    assert kept is not None
    lease = Lease.restore(kept._replace(**change), boot, at(now))
    assert lease.cause is cause
    assert run(lease, at(now))[1] == [What.FREED]


def test_a_warned_lease_stays_warned_over_a_restart() -> None:
    lease = bound()
    lease.warn(4 * NS)
    run(lease)
    kept = lease.kept()
    assert kept is not None
    again = Lease.restore(kept, "boot", at(1))
    run(again, at(1))
    assert (again.state, again.next_deadline()) == (LeaseState.WARNED, 4 * NS)


def test_a_fenced_lease_stays_fenced_over_a_restart() -> None:
    kept = fenced().kept()
    assert kept is not None
    again = Lease.restore(kept, "boot", at(1))
    assert again.state is LeaseState.FENCED
    assert run(again)[0] == ["Fence"]


def test_a_step_that_runs_when_the_daemon_must_go_is_undone_by_the_next_one() -> None:
    lease = fresh()
    assert isinstance(lease.next_effect(), Do)
    assert lease.fence_at_once(T0) is not None
    assert lease.done == 1


def test_what_will_not_go_is_fenced_at_once() -> None:
    lease = bound()
    lease.tear_down(Cause.REVOKED, T0)
    lease.next_effect()
    entry = lease.fence_at_once(T0)
    assert entry is not None
    assert (entry.entry["rec"], entry.durable, lease.state) == ("fenced", True, LeaseState.FENCED)
    assert lease.fence_at_once(T0) is None


def test_the_table_has_every_state_and_free_is_the_end() -> None:
    assert set(TRANSITIONS) == set(LeaseState)
    assert TRANSITIONS[LeaseState.FREE] == frozenset()


def play(seed: int) -> None:
    """Random failures, half-done steps and interruptions: the device holds nothing when the lease is FREE."""
    rng = random.Random(seed)
    lease = Lease(SPEC, tuple("abcd"[: rng.randint(1, 4)]), rng.choice((0, NS)), 1010, "boot")
    held: set[str] = set()
    now = T0
    for _ in range(2000):
        if rng.random() < 0.05:
            lease.tear_down(rng.choice((Cause.REVOKED, Cause.FREED)), now)
        effect = lease.next_effect()
        if effect is not None:
            act(lease, effect, held, now, rng)
            continue
        if lease.state is LeaseState.FREE:
            assert not held
            return
        if lease.state is LeaseState.FENCED:
            assert lease.cause is not None
            lease.clear()
            continue
        now = Instant(max(now.boot_ns, lease.next_deadline() or 0), 0)
        lease.handle_timer(now)
    raise AssertionError("no progress")


def act(lease: Lease, effect: Effect, held: set[str], now: Instant, rng: random.Random) -> None:
    assert lease.next_effect() is None, "one at a time"
    fails = rng.random() < 0.3
    if isinstance(effect, Do) and (not fails or rng.random() < 0.5):
        held.add(effect.step)
    if isinstance(effect, Undo) and not fails:
        assert all(step <= effect.step for step in held), "undone out of order"
        held.discard(effect.step)
    assert not isinstance(effect, Forget | Fence) or lease.state in (LeaseState.FREE, LeaseState.FENCED)
    if fails:
        lease.effect_failed(effect, OSError(5, "no"), now)
    else:
        lease.effect_succeeded(effect, (), now)


def test_nothing_survives_teardown() -> None:
    for seed in range(3000):
        play(seed)


@pytest.mark.parametrize(("kind", "durable"), [(ResourceType.MEM, False), (ResourceType.BLOCK, True)])
def test_only_what_outlives_a_power_cut_waits_for_the_disk(kind: ResourceType, durable: bool) -> None:
    lease = Lease(SPEC._replace(kind=kind), ("a", "b"), 0, 1010, "boot")
    for expected in (durable, False):
        effect = lease.next_effect()
        assert isinstance(effect, Do)
        assert effect.durable is expected
        lease.effect_succeeded(effect, (), T0)
