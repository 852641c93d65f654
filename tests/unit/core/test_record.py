"""The journal's entries: they fold into what was, and nothing else folds at all."""

import json

import pytest

from fabricbios.core import record
from fabricbios.core.record import Kept, entries_of, fold
from fabricbios.errors import LocalMisuse
from fabricbios.model import Binding, DpAuth, ResourceType
from fabricbios.ports import LeaseSpec
from fabricbios.wire import LeaseCpuIsolation

SPEC = LeaseSpec(
    (1 << 127) + 5, 1 << 90, ResourceType.BLOCK, Binding.NVMEOF, 1 << 40, 3, 7, DpAuth.SIPHASH_FULL, b"", 3,
    expires_ns=(1 << 60) + 1, reached="fe80::1", wishes=(LeaseCpuIsolation(1),),
)  # fmt: skip
KEPT = Kept(SPEC, ("a", "b"), 5, 1_800_000_000, "boot-9")


@pytest.mark.parametrize(
    "kept",
    [
        KEPT,
        KEPT._replace(stage="bound"),
        KEPT._replace(stage="warned", revoke_ns=77),
        KEPT._replace(stage="down", cause="revoked"),
        KEPT._replace(stage="fenced", cause="expired"),
        KEPT._replace(stage="fenced"),
    ],
)
def test_a_lease_comes_back_as_it_was(kept: Kept) -> None:
    lines = [json.loads(json.dumps(e)) for e in entries_of(kept)]
    assert dict(fold(lines).leases) == {SPEC.lease_id: kept}


def test_the_key_is_never_written() -> None:
    assert "5a5a" not in json.dumps(record.lease_entry(KEPT._replace(spec=SPEC._replace(dp_key=b"Z" * 32))))


def test_renewals_count_and_the_end_forgets() -> None:
    entries = [record.lease_entry(KEPT), record.note("bound", SPEC.lease_id)]
    entries.append(record.note("renew", SPEC.lease_id, generation=8, expires_ns=9, ends_unix=10))
    kept = fold(entries).leases[SPEC.lease_id]
    assert (kept.spec.generation, kept.spec.expires_ns, kept.ends_unix, kept.stage) == (8, 9, 10, "bound")
    assert not fold([*entries, record.note("end", SPEC.lease_id)]).leases
    assert not fold([record.note("fenced", 5), record.note("end", 5)]).leases


@pytest.mark.parametrize("stage", ["down", "fenced"])
def test_what_is_over_is_bound_no_more(stage: str) -> None:
    """A step may end when the daemon has given it up already."""
    entries = [*entries_of(KEPT._replace(stage=stage, cause="revoked")), record.note("bound", SPEC.lease_id)]
    assert fold(entries).leases[SPEC.lease_id].stage == stage


def test_epoch_and_revocations() -> None:
    past = fold([record.epoch_entry(3), record.epoch_entry((1 << 64) - 1), record.revoked_entry(1 << 100, 50)])
    assert (past.epoch, dict(past.revoked)) == ((1 << 64) - 1, {1 << 100: 50})


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"v": 2, "rec": "end", "id": "0x1"},
        {"v": 1, "rec": "lease", "id": "0x1"},
        {"v": 1, "rec": "wormhole", "id": "0x1"},
        {"v": 1, "rec": "end", "id": "zz"},
        {"v": 1, "rec": "epoch"},
        {**record.lease_entry(KEPT), "kind": 99},
        {**record.lease_entry(KEPT), "wishes": "09"},
    ],
)
def test_what_this_version_never_wrote_stops_the_start(entry: dict[str, object]) -> None:
    with pytest.raises(LocalMisuse):
        fold([entry])
