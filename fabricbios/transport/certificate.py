"""The X.509 shell around an Ed25519 key (D3): made for us, checked for others.

Nothing in it is believed but the key, its dates and the fabricBIOS Certificate it carries: who a peer
is comes from the key alone, and whether the key is the peer's from CertificateVerify (tls.py).
"""

from __future__ import annotations

import datetime
from typing import NamedTuple

from aioquic import tls
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, NameOID

from fabricbios.model import hex128, id_of_key

CERTIFICATE_OID = x509.ObjectIdentifier("2.25.166232607392560690799249119307754418437")  # D3(b)
LIFETIME_DAYS = 365
BACKDATE_HOURS = 24  # nodes without a battery clock start in the past
MAX_DER = 12 * 1024  # all that a peer shows; a fabricBIOS Certificate may carry extensions
SIGNATURE_BYTES = 64  # Ed25519's, RFC 8032

_DAY = 86_400
_HARMLESS_CRITICAL = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}


class PeerKey(NamedTuple):
    """What a peer's X.509 claims. `certificate` is the fabricBIOS Certificate (wire bytes) or b""."""

    public_key: bytes
    certificate: bytes

    @property
    def node_id(self) -> int:
        return id_of_key(self.public_key)


def raw_key(key: Ed25519PublicKey) -> bytes:
    """Return the 32 bytes of an Ed25519 public key."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def make(private_key: Ed25519PrivateKey, unix: int, certificate: bytes = b"") -> x509.Certificate:
    """Return a self-signed certificate for this key, good around `unix` (seconds)."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hex128(id_of_key(raw_key(private_key.public_key()))))])
    start = datetime.datetime.fromtimestamp(unix, datetime.UTC) - datetime.timedelta(hours=BACKDATE_HOURS)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=LIFETIME_DAYS))
    )
    if certificate:
        builder = builder.add_extension(x509.UnrecognizedExtension(CERTIFICATE_OID, certificate), critical=False)
    return builder.sign(private_key, None)


def days_left(certificate: x509.Certificate, unix: int) -> float:
    """Return how long it still holds, in days; negative when over."""
    return (certificate.not_valid_after_utc.timestamp() - unix) / _DAY


def holds(certificate: x509.Certificate, unix: int, days: int) -> bool:
    """Say whether it holds now and will for so many days."""
    return certificate.not_valid_before_utc.timestamp() <= unix and days_left(certificate, unix) >= days


def parse(der: bytes) -> x509.Certificate:
    """Return what the bytes say; the alert bad_certificate where they are too long or say nothing."""
    if len(der) > MAX_DER:
        raise tls.AlertBadCertificate("certificate is too long")
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion) as error:
        raise tls.AlertBadCertificate("certificate cannot be parsed") from error


def read(der: bytes, unix: int) -> PeerKey:
    """Check a peer's certificate at `unix` seconds.

    Raises the TLS alert that D3 ends the handshake with: bad_certificate when it is malformed or not
    self-signed, unsupported_certificate when it is not Ed25519, certificate_expired outside its dates.
    """
    parsed = parse(der)
    try:
        extensions = parsed.extensions
        key = parsed.public_key()
    except UnsupportedAlgorithm as error:
        raise tls.AlertUnsupportedCertificate("unknown kind of key") from error
    except (ValueError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise tls.AlertBadCertificate("certificate cannot be parsed") from error
    if not isinstance(key, Ed25519PublicKey):
        raise tls.AlertUnsupportedCertificate("key is not Ed25519")
    _check_self_signed(parsed)
    if der[-SIGNATURE_BYTES - 1]:  # unused bits of the BIT STRING at the end: the parser lets them pass
        raise tls.AlertBadCertificate("signature is no whole number of bytes")
    if not parsed.not_valid_before_utc.timestamp() <= unix <= parsed.not_valid_after_utc.timestamp():
        raise tls.AlertCertificateExpired("certificate is outside its dates")
    return PeerKey(raw_key(key), _carried(extensions))


def _check_self_signed(parsed: x509.Certificate) -> None:
    try:
        parsed.verify_directly_issued_by(parsed)
    except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError) as error:
        raise tls.AlertBadCertificate("certificate is not signed by its own key") from error


def _carried(extensions: x509.Extensions) -> bytes:
    found = b""
    for extension in extensions:
        if extension.critical and extension.oid not in _HARMLESS_CRITICAL:
            raise tls.AlertUnsupportedCertificate("unknown critical extension")
        if extension.oid == CERTIFICATE_OID and isinstance(extension.value, x509.UnrecognizedExtension):
            found = extension.value.value
    return found
