"""The journal's entries: enough to adopt or to tear down everything after a kill -9 at any point.

An entry is a JSON object with `v` (1) and `rec`:

| rec     | fields | written |
|---------|--------|---------|
| lease   | all of LeaseSpec but dp_key; plan, grace_ns, ends_unix, boot | before the first Do |
| bound   | id | after the last Do, before the answer |
| renew   | id, generation, expires_ns, ends_unix | before Renew, also one that puts the old values back |
| warned  | id, revoke_ns | when a revocation's grace begins |
| down    | id, cause | before the first Undo |
| fenced  | id | when an Undo failed for good |
| end     | id | after the last Undo |
| epoch   | epoch | before SCHEDULER_FENCE_SET is answered |
| revoked | token_id, until | before CAP_REVOKE is answered |
| voucher | holder, certificate | before the lease of whom that certificate made trusted; empty for a pinned one |

Ids are hex, because JSON's numbers end at 2**53. The dp_key is never written: an adopting data plane
still has it, and LEASE_ATTACH makes a new one. What a kill must not lose the kernel has when a Record
succeeds; on the disk are the leases of what outlives a power cut (blocks), fences, epochs and revocations
(entries are in order, so a later one on the disk brings the earlier ones).

`boot` is the kernel's boot id: `expires_ns` counts CLOCK_BOOTTIME and means nothing after a reboot, so leases
of another boot are torn down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from fabricbios.errors import LocalMisuse, WireError
from fabricbios.model import Binding, DpAuth, ResourceType, hex128
from fabricbios.ports import LeaseSpec
from fabricbios.wire import LeaseIntentTlvs

VERSION = 1
Entry = dict[str, Any]


class Kept(NamedTuple):
    """One lease as the journal has it. `stage` is the last of lease, bound, warned, down, fenced."""

    spec: LeaseSpec
    plan: tuple[str, ...]
    grace_ns: int
    ends_unix: int
    boot: str
    stage: str = "lease"
    revoke_ns: int = 0
    cause: str = ""


class Past(NamedTuple):
    """All that a predecessor left behind."""

    leases: Mapping[int, Kept]
    epoch: int = 0
    revoked: Mapping[int, int] = {}
    vouchers: Mapping[int, bytes] = {}


def lease_entry(kept: Kept) -> Entry:
    """Describe one lease wholly."""
    s = kept.spec
    return {
        "v": VERSION, "rec": "lease", "id": hex128(s.lease_id), "resource_id": hex128(s.resource_id),
        "kind": int(s.kind), "binding": int(s.binding), "size": s.size, "holder": hex128(s.holder),
        "generation": s.generation, "dp_auth": int(s.dp_auth), "rights": s.rights, "expires_ns": s.expires_ns,
        "reached": s.reached, "wishes": LeaseIntentTlvs(s.wishes).pack().hex() if s.wishes else "",
        "plan": list(kept.plan), "grace_ns": kept.grace_ns, "ends_unix": kept.ends_unix, "boot": kept.boot,
    }  # fmt: skip


def note(rec: str, lease_id: int, **fields: Any) -> Entry:
    return {"v": VERSION, "rec": rec, "id": hex128(lease_id), **fields}


def epoch_entry(epoch: int) -> Entry:
    return {"v": VERSION, "rec": "epoch", "epoch": str(epoch)}


def revoked_entry(token_id: int, until: int) -> Entry:
    return {"v": VERSION, "rec": "revoked", "token_id": hex128(token_id), "until": until}


def voucher_entry(holder: int, certificate: bytes) -> Entry:
    return {"v": VERSION, "rec": "voucher", "holder": hex128(holder), "certificate": certificate.hex()}


def fold(entries: Iterable[Mapping[str, Any]]) -> Past:
    """Return what is left after all entries. LocalMisuse for what this version never wrote (fail closed)."""
    leases: dict[int, Kept] = {}
    revoked: dict[int, int] = {}
    vouchers: dict[int, bytes] = {}
    epoch = 0
    for entry in entries:
        try:
            if entry["v"] != VERSION:
                raise LocalMisuse(f"journal entry of version {entry['v']!r}; this is version {VERSION}")
            if entry["rec"] == "epoch":
                epoch = int(entry["epoch"])
            elif entry["rec"] == "revoked":
                revoked[int(entry["token_id"], 16)] = int(entry["until"])
            elif entry["rec"] == "voucher":
                vouchers[int(entry["holder"], 16)] = bytes.fromhex(entry["certificate"])
            else:
                _fold_lease(leases, entry)
        except (KeyError, ValueError, TypeError, WireError) as e:
            raise LocalMisuse(f"journal entry that cannot be read ({e!r}): {dict(entry)!r}") from e
    return Past(leases, epoch, revoked, vouchers)


def _fold_lease(leases: dict[int, Kept], entry: Mapping[str, Any]) -> None:
    lease_id, rec = int(entry["id"], 16), entry["rec"]
    if rec == "lease":
        leases[lease_id] = _kept(lease_id, entry)
    elif rec == "end":
        leases.pop(lease_id, None)
    elif lease_id in leases:
        leases[lease_id] = _FOLD[rec](leases[lease_id], entry)
    elif rec not in _FOLD:
        raise KeyError(rec)


def _renewed(kept: Kept, entry: Mapping[str, Any]) -> Kept:
    spec = kept.spec._replace(generation=int(entry["generation"]), expires_ns=int(entry["expires_ns"]))
    return kept._replace(spec=spec, ends_unix=int(entry["ends_unix"]))


_FOLD: dict[str, Callable[[Kept, Mapping[str, Any]], Kept]] = {
    "bound": lambda kept, _: kept._replace(stage="bound") if kept.stage == "lease" else kept,
    "renew": _renewed,
    "warned": lambda kept, e: kept._replace(stage="warned", revoke_ns=int(e["revoke_ns"])),
    "down": lambda kept, e: kept._replace(stage="down", cause=str(e["cause"])),
    "fenced": lambda kept, _: kept._replace(stage="fenced"),
}


def _kept(lease_id: int, e: Mapping[str, Any]) -> Kept:
    spec = LeaseSpec(
        lease_id=lease_id,
        resource_id=int(e["resource_id"], 16),
        kind=ResourceType(e["kind"]),
        binding=Binding(e["binding"]),
        size=int(e["size"]),
        holder=int(e["holder"], 16),
        generation=int(e["generation"]),
        dp_auth=DpAuth(e["dp_auth"]),
        dp_key=b"",
        rights=int(e["rights"]),
        expires_ns=int(e["expires_ns"]),
        reached=str(e["reached"]),
        wishes=LeaseIntentTlvs.unpack(bytes.fromhex(e["wishes"])).tlvs,
    )
    return Kept(spec, tuple(map(str, e["plan"])), int(e["grace_ns"]), int(e["ends_unix"]), str(e["boot"]))


def entries_of(kept: Kept) -> Iterable[Entry]:
    """Yield the fewest entries that fold back into `kept`: what a compacted journal holds."""
    yield lease_entry(kept)
    lease_id = kept.spec.lease_id
    if kept.stage in ("bound", "warned"):
        yield note("bound", lease_id)
    if kept.stage == "warned":
        yield note("warned", lease_id, revoke_ns=kept.revoke_ns)
    if kept.cause:
        yield note("down", lease_id, cause=kept.cause)
    if kept.stage == "fenced":
        yield note("fenced", lease_id)
