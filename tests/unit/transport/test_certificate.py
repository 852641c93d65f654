import pytest
from aioquic import tls
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from fabricbios.transport import certificate

NOW = 1_800_000_000
DAY = 86_400
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
DER = certificate.make(KEY, NOW, b"inside").public_bytes(Encoding.DER)


def test_what_we_make_we_read() -> None:
    assert certificate.read(DER, NOW) == (certificate.raw_key(KEY.public_key()), b"inside")
    assert certificate.read(DER, NOW - DAY + 1).certificate == b"inside"


@pytest.mark.parametrize("unix", [NOW - 2 * DAY, NOW + 365 * DAY])
def test_dates_count(unix: int) -> None:
    with pytest.raises(tls.AlertCertificateExpired):
        certificate.read(DER, unix)


def test_the_carried_certificate_must_not_be_critical() -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    made = certificate.make(KEY, NOW)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key())
    builder = builder.serial_number(7).not_valid_before(made.not_valid_before_utc)
    builder = builder.not_valid_after(made.not_valid_after_utc)
    carried = x509.UnrecognizedExtension(certificate.CERTIFICATE_OID, b"x")
    der = builder.add_extension(carried, critical=True).sign(KEY, None).public_bytes(Encoding.DER)
    with pytest.raises(tls.AlertUnsupportedCertificate, match="critical"):
        certificate.read(der, NOW)


@given(st.binary(max_size=600))
def test_any_bytes_read_or_end_in_an_alert(data: bytes) -> None:
    with pytest.raises(tls.Alert):
        certificate.read(data, NOW)


@given(st.integers(0, len(DER) - 1), st.integers(1, 255))
def test_any_changed_byte_ends_in_an_alert(at: int, flip: int) -> None:
    changed = bytearray(DER)
    changed[at] ^= flip
    with pytest.raises(tls.Alert):
        certificate.read(bytes(changed), NOW)
