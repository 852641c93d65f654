"""A Certificate as a controller issues it (D3b)."""

from discovery_rig import key, node_id, raw

from fabricbios.wire import Certificate, verify_certificate
from fabricbios.wire.enrolment import issue


def test_it_names_both_keys_and_its_dates_and_holds():
    made = issue(key(1), raw(key(2)), 100, 200)
    assert Certificate.unpack(made.pack()) == made
    assert (made.subject, made.issuer, made.public_key) == (node_id(key(2)), node_id(key(1)), raw(key(2)))
    assert (made.issued_at, made.expires_at, made.extensions) == (100, 200, ())
    assert verify_certificate(made, raw(key(1)))
    assert not verify_certificate(made, raw(key(2)))
