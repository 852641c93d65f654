"""Lease intents (wire encoding, 0x09xx in LEASE_ALLOC): which are malformed, which are not for this device.

What the wire encoding calls InvalidIntent is INVALID_INTENT; a value that has a name but is not offered is
INVALID_ARGS (D6). Decoding does not tell them apart, so a refused LEASE_ALLOC is looked at once more here.
"""

from __future__ import annotations

import struct
from typing import Any

from fabricbios.errors import WireError
from fabricbios.model import Status
from fabricbios.wire import LeaseAffinity, LeaseCpuIsolation, LeaseGpuExclusivity, LeaseIntentKvCache, LeaseIntentTlvs

_TLVS_AT = 18  # duration_secs, grace_secs, resource_type, requested_bytes
_EXCLUSIVE = 0x0000
_ADAPTIVE, _FACILITY = 0x03, 0x05
_REQUIRED = 0x01


def status_of_bad_alloc(params: bytes) -> Status:
    """Say whether LEASE_ALLOC params that do not decode are BAD_REQUEST or INVALID_INTENT."""
    at = _TLVS_AT
    while at + 4 <= len(params):
        tag, length = struct.unpack_from(">HH", params, at)
        stop = at + 4 + length
        if stop > len(params):
            break
        if tag >> 8 == 0x09 and not _decodes(params[at:stop]):
            return Status.INVALID_INTENT
        at = stop
    return Status.BAD_REQUEST


def _decodes(tlv: bytes) -> bool:
    try:
        LeaseIntentTlvs.unpack(tlv)
    except WireError:
        return False
    return True


def refuse_unoffered(intent: Any) -> str:
    """Say why a device without special placement does not offer `intent`, "" when it does.

    Plain memory is exclusive, nothing pins a core or a GPU. A tier is preferred, not asked for, and the hint is
    advisory (wire encoding): who prefers another gets what there is. Affinities are for `core.affinity`, but those
    that the tables only reserve mean nothing yet.
    """
    if isinstance(intent, LeaseCpuIsolation | LeaseGpuExclusivity):
        return f"isolation class {intent.class_} is not offered here" if intent.class_ else ""
    if isinstance(intent, LeaseIntentKvCache):
        return "" if intent.sharing_mode == _EXCLUSIVE else f"sharing mode {intent.sharing_mode} is not offered here"
    if isinstance(intent, LeaseAffinity):
        reserved = intent.category == _FACILITY or intent.strength & 0x7F == _ADAPTIVE
        return "Facility and Adaptive are reserved" if reserved else ""
    return ""
