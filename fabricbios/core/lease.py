"""One lease, from asked for to gone: the only place where a lease changes state (D8).

A lease is a plan: an ordered tuple of steps. Binding does them forward, teardown undoes backward, one
effect at a time. A do that failed may have half happened, so it is undone too. A failed undo is retried,
then the lease is FENCED: never skipped. Whatever arrives during a step waits for that step.

Methods answer with what happened (`core.happened`); the caller (`core.leases`) turns that into
answers, events and accounts. Times are CLOCK_BOOTTIME nanoseconds unless they say unix.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from fabricbios.core import record
from fabricbios.core.effects import Adopt, Do, Effect, Entry, Fence, Forget, Record, Rekey, Renew, Undo, Warn
from fabricbios.core.happened import Cause, Happened, Job, Teardown, What
from fabricbios.core.record import Kept
from fabricbios.errors import LocalMisuse
from fabricbios.model import NS, Instant, LeaseState, ResourceType
from fabricbios.ports import LeaseSpec

# Plain names: before Python 3.12 each LeaseState.X is a call, and these are asked for with every effect.
PENDING, ACTIVE, GRACE, WARNED, TEARING_DOWN, FREE, FENCED = LeaseState

# Every legal move. FREE has no way out; FENCED only the one that FENCE_CLEAR proves.
TRANSITIONS: dict[LeaseState, frozenset[LeaseState]] = {
    PENDING: frozenset({ACTIVE, TEARING_DOWN}),
    ACTIVE: frozenset({GRACE, WARNED, TEARING_DOWN}),
    GRACE: frozenset({ACTIVE, TEARING_DOWN}),
    WARNED: frozenset({TEARING_DOWN}),
    TEARING_DOWN: frozenset({FREE, FENCED}),
    FENCED: frozenset({FREE}),
    FREE: frozenset(),
}
BOUND = frozenset({ACTIVE, GRACE, WARNED})

OUTLIVES_POWER = frozenset({ResourceType.BLOCK})  # memory forgets at a power cut what its journal forgets
UNDO_FOR_NS = 5 * NS  # D8: a step is retried that long, then it fences
FIRST_RETRY_NS, LAST_RETRY_NS = NS // 20, NS
FORGET_AFTER_NS = 30 * NS  # D10
WAITING, DUE, DONE = range(3)  # forgetting, once FREE
MAX_JOBS = 8  # renewals and re-keyings of one lease that may wait for each other


class Lease:
    """See the module. Public attributes are read by everybody and written here alone."""

    __slots__ = (
        "_jobs", "_tlvs", "_written", "adopting", "armed_ns", "boot", "cause", "counted", "done", "ended_ns",
        "ends_unix", "forgetting", "grace_ns", "plan", "revoke_ns", "running", "spec", "state", "teardown", "told_ns",
    )  # fmt: skip

    def __init__(self, spec: LeaseSpec, plan: tuple[str, ...], grace_ns: int, ends_unix: int, boot: str) -> None:
        if not plan:
            raise LocalMisuse("a plan has steps: their effects carry what the journal is told")
        self.spec, self.plan, self.grace_ns, self.ends_unix, self.boot = spec, plan, grace_ns, ends_unix, boot
        self.state = PENDING
        self.cause: Cause | None = None
        self.done = 0  # steps that may be held
        self.revoke_ns = 0  # end of a revocation's grace
        self.told_ns = 0  # that end, once the data path was told: it binds there while the daemon is stopped, too (D10)
        self.ended_ns = 0  # when it became FREE
        self.forgetting = WAITING
        self.adopting = False
        self.teardown: Teardown | None = None
        self.armed_ns = -1  # core.timers
        self.counted: LeaseState | None = None  # core.leases
        self._written = ""  # last stage of record.Kept that the journal has
        self.running: Effect | None = None  # the one effect under way
        self._jobs: deque[Job] | None = None
        self._tlvs: tuple[Any, ...] | None = None  # collected until the answer is made

    @classmethod
    def restore(cls, kept: Kept, boot: str, now: Instant) -> Lease:
        """Return a lease of a predecessor: to be adopted if it was whole and has time left, else torn down."""
        lease = cls(kept.spec, kept.plan, kept.grace_ns, kept.ends_unix, kept.boot)
        lease._written = kept.stage
        lease.done = len(kept.plan)  # any of them may be held; undo is idempotent
        lease.revoke_ns = kept.revoke_ns
        if kept.boot == boot:
            lease.anchor(now)
        if kept.stage == "fenced":
            lease._begin_teardown(Cause(kept.cause or "revoked"), now)
            lease._move(FENCED)
        elif kept.stage in ("bound", "warned") and kept.boot == boot and now.boot_ns < kept.spec.expires_ns:
            lease.adopting = True
        else:
            over = now.boot_ns >= kept.spec.expires_ns if kept.boot == boot else now.unix >= kept.ends_unix
            fallback = "expired" if over else "revoked"
            lease._begin_teardown(Cause(kept.cause or fallback), now)
        return lease

    def kept(self) -> Kept | None:
        """Return what the journal must hold of this lease now, None for nothing."""
        stage = self._stage()
        if self.state is FREE or not stage:
            return None
        cause = self.cause.value if self.cause and stage in ("down", "fenced") else ""
        revoke_ns = self.revoke_ns if stage == "warned" else 0
        return Kept(self.spec, self.plan, self.grace_ns, self.ends_unix, self.boot, stage, revoke_ns, cause)

    def _stage(self) -> str:
        """Return the last entry that the journal has, or is to have before the effect under way."""
        if isinstance(self.running, Do | Undo) and self.running.before is not None:
            return "lease" if isinstance(self.running, Do) else "down"
        return self._written

    # -- what is wanted of it

    @property
    def ending(self) -> bool:
        """Teardown has begun, or waits for a step to finish."""
        return self.cause is not None

    @property
    def full(self) -> bool:
        """No further change is taken for now."""
        return self._jobs is not None and len(self._jobs) >= MAX_JOBS

    def expired(self, now: Instant) -> bool:
        return self.cause is Cause.EXPIRED or (self.cause is None and now.boot_ns >= self.spec.expires_ns)

    def change(self, job: Job) -> None:
        """Renew or re-key a bound lease, after what was asked before."""
        if self.state not in BOUND or self.ending or self.full:
            raise LocalMisuse(f"a {self.state.name} lease takes no change now")
        if self._jobs is None:
            self._jobs = deque()
        self._jobs.append(job)

    def anchor(self, now: Instant) -> None:
        """Let the end in Unix seconds, which is for people (D8), move with a wall clock that was set."""
        left_ms = (self.spec.expires_ns - now.boot_ns) // 1_000_000
        ends_unix = -(-(now.unix_ms + left_ms) // 1000)
        if abs(ends_unix - self.ends_unix) > 1:  # rounding is no jump
            self.ends_unix = max(0, ends_unix)

    def warn(self, revoke_ns: int) -> None:
        """Revoke with grace: from now on no renewal; teardown at `revoke_ns` or at the end, what comes first.

        A second warning may only shorten the first.
        """
        if self.state is WARNED:
            self._written = "bound"  # the new date is to be recorded
            self.revoke_ns = min(revoke_ns, self.revoke_ns)
            return
        self.revoke_ns = min(revoke_ns, self.spec.expires_ns)
        self._move(WARNED)

    def tear_down(self, cause: Cause, now: Instant) -> list[Happened]:
        """Begin teardown, after the step at hand. Safe in any state; the first cause counts."""
        if self.cause is None:
            self.cause = cause
        return self._settle(now)

    def clear(self) -> None:
        """FENCE_CLEAR: try the undos again, once each. CLEAR_FAILED or FREED comes of it."""
        if self.state is not FENCED or self.teardown is None:
            raise LocalMisuse(f"a {self.state.name} lease is not fenced")
        self.teardown.clearing = True

    def fence_at_once(self, now: Instant) -> Record | None:
        """The daemon must go: FENCED as things are, whatever runs. Return what the journal is to hold of it."""
        if self.state in (FREE, FENCED):
            return None
        self.done += isinstance(self.running, Do)  # which may have half happened
        self.running = None
        if self.state is not TEARING_DOWN:
            self._begin_teardown(self.cause or Cause.REVOKED, now)
        self._move(FENCED)
        return self._record("fenced", durable=True)

    # -- time

    def next_deadline(self) -> int | None:
        """When handle_timer has something to do, None while only an effect can move this lease."""
        if self.state is FREE:
            return self.ended_ns + FORGET_AFTER_NS if self.forgetting == WAITING else None
        if self.teardown is not None:
            return self.teardown.retry_ns if self.teardown.retry_ns >= 0 else None
        if self.cause is not None:
            return None
        if self.state is WARNED:
            return self.revoke_ns
        if self._jobs:
            return None  # a change accepted before the end is decided first
        return self.spec.expires_ns + (self.grace_ns if self.state is GRACE else 0)

    def handle_timer(self, now: Instant) -> list[Happened]:
        due = self.next_deadline()
        if due is None or now.boot_ns < due:
            return []
        if self.state is FREE:
            self.forgetting = DUE
            return []
        if self.teardown is not None:
            self.teardown.retry_ns = -1
            return []
        if self.state is WARNED:
            return self.tear_down(Cause.REVOKED, now)
        return self._expire(now)

    def _expire(self, now: Instant) -> list[Happened]:
        happened = [] if self.state is GRACE else [Happened(What.EXPIRED)]
        if self.state is ACTIVE and now.boot_ns < self.spec.expires_ns + self.grace_ns:
            self._move(GRACE)
            return happened
        return happened + self.tear_down(Cause.EXPIRED, now)

    # -- effects

    def next_effect(self) -> Effect | None:
        """Return the one effect to carry out now, or None. Each is returned once, one at a time."""
        if self.running is None:
            self.running = self._choose()
            return self.running
        return None

    def _choose(self) -> Effect | None:
        if self.state is PENDING:
            return self._bind_next()
        if self.state is TEARING_DOWN:
            return self._undo_next()
        if self.state is FENCED:
            return self._fenced_next()
        if self.state is FREE:
            return Forget(self.spec) if self.forgetting == DUE else None
        if self.state is WARNED and self._written != "warned":
            return self._record("warned", revoke_ns=self.revoke_ns)
        if self.state is WARNED and self.told_ns != self.revoke_ns:
            self.told_ns = self.revoke_ns
            return Warn(self._until_revoked(self.spec))
        return self._change_next()

    def _bind_next(self) -> Effect:
        if self.adopting:
            self.told_ns = self.revoke_ns
            return Adopt(self._until_revoked(self.spec))
        kept = Kept(self.spec, self.plan, self.grace_ns, self.ends_unix, self.boot)
        before = None if self.done else record.lease_entry(kept)
        after = self._note("bound") if self.done == len(self.plan) - 1 else None
        durable = before is not None and self.spec.kind in OUTLIVES_POWER
        return Do(self.spec, self.plan[self.done], before, after, durable)

    def _undo_next(self) -> Effect | None:
        if self.teardown is None or self.teardown.retry_ns >= 0:
            return None
        if self._written == "down":
            return self._undo()
        assert self.cause is not None
        return self._undo(self._note("down", cause=self.cause.value))

    def _undo(self, before: Entry | None = None) -> Undo:
        return Undo(self.spec, self.plan[self.done - 1], before, self._note("end") if self.done == 1 else None)

    def _fenced_next(self) -> Effect | None:
        assert self.teardown is not None
        if self._written != "fenced":
            return self._record("fenced", durable=True)
        if not self.teardown.told:
            return Fence(self.spec)
        return self._undo() if self.teardown.clearing else None

    def _change_next(self) -> Effect | None:
        if not self._jobs:
            return None
        job = self._jobs[0]
        if job.dp_key:
            return Rekey(self._until_revoked(self.spec._replace(dp_key=job.dp_key, reached=job.reached)))
        if job.renewed is None:
            job.renewed = self._renewed(job)
        spec, ends_unix = (self.spec, self.ends_unix) if job.reverting else job.renewed
        if job.recorded:
            return Renew(self._until_revoked(spec))
        new = {"generation": spec.generation, "expires_ns": spec.expires_ns, "ends_unix": ends_unix}
        return Record(self.spec, self._note("renew", **new), durable=False)

    def _until_revoked(self, spec: LeaseSpec) -> LeaseSpec:
        """Return what the data path is to hold: a lease that is being revoked ends there with its grace."""
        return spec._replace(expires_ns=min(spec.expires_ns, self.revoke_ns)) if self.revoke_ns else spec

    def _renewed(self, job: Job) -> tuple[LeaseSpec, int]:
        """Never shortens (D8), and raises the generation whatever became of the end."""
        spec = self.spec._replace(generation=self.spec.generation + 1)
        if job.expires_ns <= spec.expires_ns:
            return spec, self.ends_unix
        return spec._replace(expires_ns=job.expires_ns), max(job.ends_unix, self.ends_unix)

    def _note(self, rec: str, **fields: Any) -> Entry:
        return record.note(rec, self.spec.lease_id, **fields)

    def _record(self, rec: str, durable: bool = False, **fields: Any) -> Record:
        return Record(self.spec, self._note(rec, **fields), durable)

    def effect_succeeded(self, effect: Effect, result: Sequence[Any], now: Instant) -> list[Happened]:
        """Take note of a success; `result` are the TLV values of Do, Adopt and Rekey."""
        self._finish(effect)
        happened = self._succeeded(effect, result, now)
        return happened if self.cause is None else happened + self._settle(now)

    def _succeeded(self, effect: Effect, result: Sequence[Any], now: Instant) -> list[Happened]:
        if isinstance(effect, Do):
            return self._did(effect, result)
        if isinstance(effect, Undo):
            return self._undone(effect, now)
        if isinstance(effect, Record):
            self._recorded(effect.entry["rec"])
        elif isinstance(effect, Adopt):
            return self._adopted()
        elif isinstance(effect, Renew | Rekey):
            return self._changed(effect, tuple(result))
        elif isinstance(effect, Fence):
            return self._tell()
        elif isinstance(effect, Forget):
            return self._forgotten()
        return []

    def effect_failed(self, effect: Effect, error: OSError, now: Instant) -> list[Happened]:
        """Take note of a failure: what may have half happened is taken back, what must go is tried again."""
        self._finish(effect)
        return self._failed(effect, error, now) + self._settle(now)

    def _failed(self, effect: Effect, error: OSError, now: Instant) -> list[Happened]:
        if isinstance(effect, Record):
            return self._not_recorded(effect.entry["rec"], error)
        if isinstance(effect, Do):
            return self._do_failed(effect, error)
        if isinstance(effect, Adopt):
            self.adopting = False
            self.cause = self.cause or Cause.REVOKED
        elif isinstance(effect, Undo):
            return self._undo_failed(effect, error, now)
        elif isinstance(effect, Renew | Rekey):
            return self._change_failed(effect, error)
        elif isinstance(effect, Fence):
            return self._tell()
        elif isinstance(effect, Forget):
            return self._forgotten(error)
        return []

    def _finish(self, effect: Effect) -> None:
        if effect is not self.running:
            raise LocalMisuse(f"{effect} was not asked for")
        self.running = None

    # -- what effects lead to

    def _recorded(self, rec: str) -> None:
        if rec != "renew":
            self._written = rec
        elif self._jobs:
            self._jobs[0].recorded = True

    def _not_recorded(self, rec: str, error: OSError) -> list[Happened]:
        """Nothing new is begun on a journal that fails, but what must end goes on: that is only repeated."""
        if rec == "renew":
            return self._renewal_not_recorded(error)
        self._recorded(rec)
        return []

    def _renewal_not_recorded(self, error: OSError) -> list[Happened]:
        """Taking a renewal back goes on: an entry too many makes a successor hold the lease as long as was asked."""
        if self._jobs and self._jobs[0].reverting:
            self._jobs[0].recorded = True
            return []
        return self._end_job(What.CHANGE_FAILED, error=error) if self._jobs else []

    def _did(self, effect: Do, result: Sequence[Any]) -> list[Happened]:
        self.done += 1
        tlvs = (*self._tlvs, *result) if self._tlvs else tuple(result)
        if effect.after is None:
            self._written, self._tlvs = "lease", tlvs
            return []
        self._written, self._tlvs = "bound", None
        if self.cause is not None:
            return []
        self._move(ACTIVE)
        return [Happened(What.BOUND, tlvs=tlvs)]

    def _do_failed(self, effect: Do, error: OSError) -> list[Happened]:
        """It may have half happened, and what was to be recorded may stand there."""
        self.done += 1
        self._written = "lease"
        self.cause = self.cause or Cause.FAILED
        return [Happened(What.BIND_FAILED, error=error)]

    def _adopted(self) -> list[Happened]:
        self.adopting = False
        if self.cause is not None:
            return []
        self._move(ACTIVE)
        if self.revoke_ns:
            self._move(WARNED)
        return [Happened(What.ADOPTED)]

    def _changed(self, effect: Renew | Rekey, result: tuple[Any, ...]) -> list[Happened]:
        job = self._jobs[0] if self._jobs else None
        if isinstance(effect, Rekey):
            self.spec = effect.lease._replace(expires_ns=self.spec.expires_ns)
            return self._end_job(What.REKEYED, tlvs=result) if job else []
        if job is None or isinstance(effect, Warn):
            return []
        if job.reverting:
            return self._end_job(What.CHANGE_FAILED)
        assert job.renewed is not None
        self.spec, self.ends_unix = job.renewed
        if self.state is GRACE:
            self._move(ACTIVE)
        return self._end_job(What.RENEWED)

    def _change_failed(self, effect: Renew | Rekey, error: OSError) -> list[Happened]:
        if not self._jobs or isinstance(effect, Warn):
            return []  # our own timer keeps a revocation's grace as well
        job = self._jobs[0]
        if isinstance(effect, Renew) and not job.reverting:
            job.reverting, job.recorded = True, False
            return []
        if isinstance(effect, Renew):
            self.cause = self.cause or Cause.REVOKED  # what the data plane believes is unknown: fail closed
        return self._end_job(What.CHANGE_FAILED, error=error)

    def _end_job(self, what: What, tlvs: tuple[Any, ...] = (), error: OSError | None = None) -> list[Happened]:
        assert self._jobs
        job = self._jobs.popleft()
        self._jobs = self._jobs or None
        return [Happened(what, job, tlvs, error)]

    def _undone(self, effect: Undo, now: Instant) -> list[Happened]:
        assert self.teardown is not None
        self.done -= 1
        if effect.after is not None:
            return self._gone(now)
        self._begun(effect)
        self.teardown.failing_since_ns, self.teardown.tries = -1, 0
        return []

    def _begun(self, effect: Undo) -> None:
        if effect.before is not None:
            self._written = "down"

    def _undo_failed(self, effect: Undo, error: OSError, now: Instant) -> list[Happened]:
        down = self.teardown
        assert down is not None
        self._begun(effect)
        if self.state is FENCED:
            down.clearing = False
            return [Happened(What.CLEAR_FAILED, error=error)]
        if down.failing_since_ns < 0:
            down.failing_since_ns = now.boot_ns
        give_up_ns = down.failing_since_ns + UNDO_FOR_NS
        if now.boot_ns >= give_up_ns:
            self._move(FENCED)
            down.fenced_by = error
            return []
        wait_ns = min(FIRST_RETRY_NS << min(down.tries, 16), LAST_RETRY_NS)
        down.tries += 1
        down.retry_ns = min(now.boot_ns + wait_ns, give_up_ns)
        return []

    def _forgotten(self, error: OSError | None = None) -> list[Happened]:
        self.forgetting = DONE
        return [Happened(What.FORGOTTEN, error=error)]

    def _tell(self) -> list[Happened]:
        down = self.teardown
        assert down is not None
        down.told = True
        error, down.fenced_by = down.fenced_by, None
        return [Happened(What.FENCED, error=error)] if error else []

    def _gone(self, now: Instant) -> list[Happened]:
        self._move(FREE)
        self.ended_ns = now.boot_ns
        return [Happened(What.FREED)]

    def _settle(self, now: Instant) -> list[Happened]:
        """Begin the teardown that waited for a step; end the one that has nothing to undo or to record."""
        if self.cause is None or self.running is not None or self.teardown is not None:
            return []
        happened = [Happened(What.ENDING)]
        if self.state is PENDING and self.cause is not Cause.FAILED:
            happened.insert(0, Happened(What.BIND_FAILED))
        happened += [Happened(What.CHANGE_REFUSED, job) for job in self._jobs or ()]
        self._jobs = None
        self._begin_teardown(self.cause, now)
        return happened + (self._gone(now) if not self._written else [])

    def _begin_teardown(self, cause: Cause, now: Instant) -> None:
        self.cause = cause
        self._tlvs = None
        self.teardown = Teardown(now.boot_ns)
        self._move(TEARING_DOWN)

    def _move(self, to: LeaseState) -> None:
        if to not in TRANSITIONS[self.state]:
            raise LocalMisuse(f"lease {self.spec.lease_id:#x}: {self.state.name} -> {to.name} is no move")
        self.state = to
