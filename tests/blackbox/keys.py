"""Identities as D3 writes them: Ed25519 keys, ids, self-signed X.509. Knows nothing of the project."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

CERTIFICATE_OID = x509.ObjectIdentifier("2.25.166232607392560690799249119307754418437")
_UTC = datetime.UTC


def id_of(public_key: bytes) -> int:
    """D3: the first 16 bytes of SHA-256(the raw 32-byte public key), as a u128."""
    return int.from_bytes(hashlib.sha256(public_key).digest()[:16], "big")


@dataclass(frozen=True)
class Key:
    private: Ed25519PrivateKey

    @classmethod
    def new(cls) -> Key:
        return cls(Ed25519PrivateKey.generate())

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes_raw()

    @property
    def id(self) -> int:
        return id_of(self.public)

    @property
    def spki_pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


def holds(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Raise InvalidSignature unless the signature holds."""
    Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def x509_pem(
    private, *, starts: int = -3600, ends: int = 86400, certificate: bytes | None = None, signer=None
) -> bytes:
    """Return a self-signed certificate; dates are seconds from now, `certificate` goes into the extension of D3(b)."""
    now = datetime.datetime.now(_UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "probe")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(seconds=starts))
        .not_valid_after(now + datetime.timedelta(seconds=ends))
    )
    if certificate is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(CERTIFICATE_OID, certificate), critical=False)
    signer = signer or private
    digest = None if isinstance(signer, Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signer, digest).public_bytes(serialization.Encoding.PEM)


def private_pem(private) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def malformed_der(private) -> bytes:
    """Return a certificate one of whose dates is none."""
    good = x509.load_pem_x509_certificate(x509_pem(private)).public_bytes(serialization.Encoding.DER)
    date = good.index(b"\x17\x0d") + 2  # the first UTCTime's content
    return good[:date] + b"not a date at" + good[date + 13 :]


def write_keys(trust: Path, *keys: Key, folder: str = "peers") -> None:
    """Put keys into a trust directory: peers/*.pem, controllers/*.pem."""
    (trust / folder).mkdir(parents=True, exist_ok=True)
    for key in keys:
        (trust / folder / f"{key.id:032x}.pem").write_bytes(key.spki_pem)
