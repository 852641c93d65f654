"""What the layers hand each other."""

import re

from fabricbios.core.effects import Rekey
from fabricbios.model import Binding, DpAuth, ResourceType
from fabricbios.ports import LeaseSpec


def test_what_the_lease_is_said_to_have_it_has():
    named = set(re.findall("`([a-z_]+)`", LeaseSpec.__doc__))
    assert {"size", "expires_ns", "wishes", "reached"} <= named <= set(LeaseSpec._fields)


def test_a_lease_says_who_it_is_but_never_its_key():
    key = b"abcdefghijklmnopqrstuvwxyz012345"
    lease = LeaseSpec(7, 8, ResourceType.MEM, Binding.UDP, 4096, 9, 1, DpAuth.HMAC_HEADER, key, 3, 10)
    for said in (repr(lease), str(Rekey(lease)), f"{lease}"):
        assert "lease_id=7" in said
        assert key.decode() not in said
        assert key.hex() not in said
