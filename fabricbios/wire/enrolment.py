"""How a controller makes a Certificate: for ENROLL_REQUEST and for `fabricbios trust issue` (D3b)."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fabricbios.model import id_of_key
from fabricbios.wire.certificate import Certificate
from fabricbios.wire.seal import sign_certificate


def issue(controller: Ed25519PrivateKey, public_key: bytes, issued_at: int, expires_at: int) -> Certificate:
    """Return a signed Certificate for a raw 32-byte key; dates in Unix seconds, the end not included."""
    issuer = controller.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    draft = Certificate(
        subject=id_of_key(public_key),
        issuer=id_of_key(issuer),
        issued_at=issued_at,
        expires_at=expires_at,
        public_key=public_key,
        extensions=(),
        signature=bytes(64),
    )
    return sign_certificate(draft, controller)
