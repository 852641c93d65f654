"""Ed25519 seals: every byte counts, and a bad key is no exception."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fabricbios.wire import (
    Certificate,
    Frame,
    FrameFlag,
    sign_certificate,
    sign_frame,
    verify_certificate,
    verify_frame,
)

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = PRIVATE.public_key().public_bytes_raw()
FRAME = Frame(msg_type=1, flags=0, request_id=1, nonce=2, sender=3, payload=b"payload")


def test_signing_sets_the_flag_and_verifies_after_the_wire():
    signed = sign_frame(FRAME, PRIVATE)
    assert signed.flags == FrameFlag.SIGNED
    assert verify_frame(Frame.unpack(signed.pack()), PUBLIC)


@pytest.mark.parametrize(
    "change", [{"nonce": 3}, {"sender": 2}, {"payload": b"Payload"}, {"msg_type": 3}, {"request_id": 0}]
)
def test_every_field_of_a_frame_is_signed(change):
    assert not verify_frame(sign_frame(FRAME, PRIVATE).replace(**change), PUBLIC)


def test_no_signature_and_no_key_do_not_hold():
    assert verify_frame(FRAME, PUBLIC) is False
    signed = sign_frame(FRAME, PRIVATE)
    assert verify_frame(signed, bytes(31)) is False
    assert verify_frame(signed, bytes(32)) is False


def test_certificates():
    draft = Certificate(subject=1, issuer=2, issued_at=10, expires_at=20, public_key=bytes(32))
    signed = sign_certificate(draft, PRIVATE)
    assert verify_certificate(signed, PUBLIC)
    assert not verify_certificate(draft, PUBLIC)
    assert not verify_certificate(signed.replace(expires_at=21), PUBLIC)
    assert [signed.in_its_dates(now) for now in (9, 10, 19, 20)] == [False, True, True, False]
