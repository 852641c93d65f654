"""Ed25519 signatures of frames (D2) and certificates (D3).

cryptography is imported where it is used: it costs more than all the rest of the wire, and most
who decode never verify.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fabricbios.wire.certificate import Certificate
from fabricbios.wire.frame import SIGNATURE_SIZE, Frame, FrameFlag

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FRAME_TAG = b"fabricbios-frame-v0\0"
CERTIFICATE_TAG = b"fabricbios-cert-v0\0"


def sign_frame(frame: Frame, private_key: Ed25519PrivateKey) -> Frame:
    """Return the frame with SIGNED set and its signature. Raise LocalMisuse if it cannot be packed."""
    bare = frame.replace(flags=frame.flags | FrameFlag.SIGNED, signature=bytes(SIGNATURE_SIZE))
    return bare.replace(signature=private_key.sign(FRAME_TAG + bare.pack()[:-SIGNATURE_SIZE]))


def verify_frame(frame: Frame, public_key: bytes) -> bool:
    """True if the frame is signed and the signature is `public_key`'s (32 raw bytes)."""
    if frame.signature is None:
        return False
    return _verify(public_key, frame.signature, FRAME_TAG + frame.pack()[:-SIGNATURE_SIZE])


def sign_certificate(certificate: Certificate, private_key: Ed25519PrivateKey) -> Certificate:
    """Return the certificate with the controller's signature."""
    body = certificate.pack()[:-SIGNATURE_SIZE]
    return certificate.replace(signature=private_key.sign(CERTIFICATE_TAG + body))


def verify_certificate(certificate: Certificate, public_key: bytes) -> bool:
    """True if the signature is `public_key`'s. Dates, and whom the key belongs to, are core's to judge."""
    return _verify(public_key, certificate.signature, CERTIFICATE_TAG + certificate.pack()[:-SIGNATURE_SIZE])


def _verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):  # ValueError: not a key at all
        return False
    return True
