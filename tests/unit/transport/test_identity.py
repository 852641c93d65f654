import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fabricbios.errors import ConfigError
from fabricbios.model import id_of_key
from fabricbios.transport import Identity, certificate

DAY = 86_400


def der(shown: object) -> bytes:
    return shown.public_bytes(Encoding.DER)  # type: ignore[attr-defined]


def test_a_new_identity_is_private_whole_and_kept(tmp_path: Path) -> None:
    home = tmp_path / "new" / "identity"
    made = Identity.load_or_create(home)
    assert Identity.load_or_create(home).node_id == made.node_id == id_of_key(made.public_key)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "node.key").stat().st_mode) == 0o600
    assert [p.name for p in home.iterdir()] == ["node.key"]


def test_the_second_of_two_processes_takes_the_first_ones_key(tmp_path: Path) -> None:
    from fabricbios.transport.files import write_new

    first = Identity.load_or_create(tmp_path)
    assert write_new(tmp_path / "node.key", b"late") is False
    assert Identity.load(tmp_path).node_id == first.node_id


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_others_can_read_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    Identity.load_or_create(tmp_path)
    key = tmp_path / "node.key"
    key.chmod(mode)
    with pytest.raises(ConfigError, match=f"chmod 600 {key}"):
        Identity.load_or_create(tmp_path)


@pytest.mark.parametrize("content", [b"", b"junk", b"x" * 20_000])
def test_a_broken_key_is_an_error_and_never_replaced(tmp_path: Path, content: bytes) -> None:
    key = tmp_path / "node.key"
    key.write_bytes(content)
    key.chmod(0o600)
    with pytest.raises(ConfigError, match=r"node\.key"):
        Identity.load_or_create(tmp_path)
    assert key.read_bytes() == content


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "node.key").write_bytes(pem)
    (tmp_path / "node.key").chmod(0o600)
    with pytest.raises(ConfigError, match="not an Ed25519 key"):
        Identity.load(tmp_path)


def test_a_directory_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        Identity.load_or_create(tmp_path / "file" / "identity")


def test_systemds_credential_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed = Identity.load_or_create(tmp_path / "credentials")
    (tmp_path / "credentials" / "node.key").chmod(0o440)  # its ACL mask shows so
    own = Identity.load_or_create(tmp_path / "state")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", os.fspath(tmp_path / "credentials"))
    assert Identity.load_or_create(tmp_path / "state").node_id == passed.node_id
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", os.fspath(tmp_path / "nothing"))
    assert Identity.load_or_create(tmp_path / "state").node_id == own.node_id


def test_the_certificate_beside_the_key_is_shown(tmp_path: Path) -> None:
    Identity.load_or_create(tmp_path)
    (tmp_path / "node.cert").write_bytes(b"wire bytes")
    me = Identity.load(tmp_path)
    shown = certificate.read(der(me.x509(1_800_000_000)), 1_800_000_000)
    assert shown == (me.public_key, b"wire bytes")
    assert shown.node_id == me.node_id


def test_the_x509_is_remade_near_its_end_and_for_a_new_certificate() -> None:
    me, now = Identity.generate(), 1_800_000_000
    first = me.x509(now)
    assert me.x509(now + 300 * DAY) is first
    second = me.x509(now + 350 * DAY)
    assert second is not first
    assert certificate.days_left(second, now + 350 * DAY) > 300
    me.certificate = b"enrolled"
    assert certificate.read(der(me.x509(now + 350 * DAY)), now + 350 * DAY).certificate == b"enrolled"


def test_a_directory_in_which_others_may_put_another_key_is_refused_with_the_remedy(tmp_path: Path) -> None:
    directory = tmp_path / "identity"
    Identity.load_or_create(directory)
    directory.chmod(0o707)
    with pytest.raises(ConfigError, match=rf"written by others \(mode 0707\): chmod go-w {directory}"):
        Identity.load(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("name", [".", "node.key"])
def test_a_key_that_another_user_owns_is_refused_with_the_remedy(tmp_path: Path, name: str) -> None:
    Identity.load_or_create(tmp_path)
    os.chown(tmp_path / name, 12345, -1)
    with pytest.raises(ConfigError, match=r"belongs to user 12345, who may change it: chown 0"):
        Identity.load(tmp_path)


def test_the_x509_is_remade_when_a_clock_that_ran_ahead_is_put_right() -> None:
    identity, now = Identity.generate(), 1_800_000_000
    ahead = identity.x509(now + 10 * 365 * DAY)
    shown = identity.x509(now)
    assert shown is not ahead
    assert shown.not_valid_before_utc.timestamp() <= now
