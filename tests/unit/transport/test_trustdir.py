import errno
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from discovery_rig import key, node_id, pins, raw

from fabricbios.errors import ConfigError
from fabricbios.transport import trustdir

ONE, TWO = key(1), key(2)


def test_saved_keys_are_loaded_private_and_whole(tmp_path: Path) -> None:
    admin, learned = tmp_path / "trust.d", tmp_path / "state"
    path = trustdir.save(admin, trustdir.PEERS, raw(ONE))
    trustdir.save(admin, trustdir.CONTROLLERS, raw(TWO))
    trustdir.save(admin, trustdir.APPROVED, raw(TWO))
    trustdir.save(learned, trustdir.PEERS, raw(TWO))
    found = trustdir.load(admin, learned)
    assert found == (pins(ONE), pins(TWO), pins(TWO), pins(TWO), ())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN PUBLIC KEY-----")
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_no_directory_trusts_nobody(tmp_path: Path) -> None:
    assert trustdir.load(tmp_path / "none", tmp_path / "none") == ({}, {}, {}, {}, ())


def test_broken_files_are_named_and_trust_nobody(tmp_path: Path) -> None:
    peers = tmp_path / "peers"
    trustdir.save(tmp_path, trustdir.PEERS, raw(ONE))
    (peers / "empty.pem").write_bytes(b"")
    (peers / "long.pem").write_bytes(trustdir.to_pem(raw(TWO)) + b"#" * 5000)
    curve = generate_private_key(SECP256R1()).public_key()
    (peers / "curve.pem").write_bytes(curve.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (peers / "folder.pem").mkdir()
    (peers / "dangling.pem").symlink_to(tmp_path / "nowhere")
    (peers / "notes.txt").write_text("not ours")
    (tmp_path / "controllers").write_text("a file where a directory belongs")
    found = trustdir.load(tmp_path)
    assert found.peers == pins(ONE)
    names = sorted(os.path.basename(b.partition(": ")[0]) for b in found.broken)
    assert names == ["controllers", "curve.pem", "dangling.pem", "empty.pem", "folder.pem", "long.pem"]


def test_forgetting_goes_by_the_key_not_by_the_name(tmp_path: Path) -> None:
    peers = tmp_path / "peers"
    peers.mkdir()
    (peers / "alice.pem").write_bytes(trustdir.to_pem(raw(ONE)))
    (peers / "bob.pem").write_bytes(trustdir.to_pem(raw(TWO)))
    assert trustdir.forget(tmp_path, trustdir.PEERS, node_id(ONE)) == [peers / "alice.pem"]
    assert trustdir.load(tmp_path).peers == pins(TWO)
    assert trustdir.forget(tmp_path, trustdir.PEERS, node_id(ONE)) == []


def test_people_name_keys_in_three_ways(tmp_path: Path) -> None:
    pem = trustdir.to_pem(raw(ONE))
    (tmp_path / "k.pem").write_bytes(pem)
    for text in (raw(ONE).hex(), "0x" + raw(ONE).hex().upper(), pem.decode(), str(tmp_path / "k.pem")):
        assert trustdir.read_key(text) == raw(ONE)
    for text in ("nosuch.pem", "abcd", str(tmp_path), "-----BEGIN PUBLIC KEY-----\njunk"):
        with pytest.raises(ConfigError, match="name a PEM file"):
            trustdir.read_key(text)


@pytest.mark.parametrize("mode", [0o666, 0o602])
def test_a_file_that_others_may_write_trusts_nobody(tmp_path: Path, mode: int) -> None:
    path = trustdir.save(tmp_path, trustdir.PEERS, raw(ONE))
    other = trustdir.save(tmp_path, trustdir.PEERS, raw(TWO))
    path.chmod(mode)
    found = trustdir.load(tmp_path)
    assert found.peers == pins(TWO)
    assert found.broken == (f"{path}: can be written by others (mode {mode:04o}): chmod go-w {path}",)
    other.chmod(0o644)  # whom we trust is no secret
    assert trustdir.load(tmp_path).peers == pins(TWO)


@pytest.mark.parametrize("which", [".", "peers"])
def test_a_directory_that_others_may_write_trusts_nobody(tmp_path: Path, which: str) -> None:
    trustdir.save(tmp_path / "trust.d", trustdir.PEERS, raw(ONE))
    folder = tmp_path / "trust.d" / which
    folder.chmod(0o1777)  # a sticky bit keeps nobody from adding a key
    found = trustdir.load(tmp_path / "trust.d", tmp_path / "trust.d")
    assert (found.peers, found.learned) == ({}, {})
    assert found.broken == (f"{folder}: can be written by others (mode 1777): chmod go-w {folder}",)


def test_a_link_to_where_others_may_write_trusts_nobody(tmp_path: Path) -> None:
    kept, path = tmp_path / "kept", trustdir.save(tmp_path / "trust.d", trustdir.PEERS, raw(ONE))
    kept.mkdir()
    path.rename(kept / "one.pem")
    path.symlink_to(kept / "one.pem")
    assert trustdir.load(tmp_path / "trust.d").peers == pins(ONE)
    kept.chmod(0o777)
    assert trustdir.load(tmp_path / "trust.d").peers == {}


@pytest.mark.parametrize("which", ["peers", "peers/*.pem"])
def test_what_another_user_owns_trusts_nobody_but_in_that_users_eyes(tmp_path: Path, which: str) -> None:
    trustdir.save(tmp_path, trustdir.PEERS, raw(ONE))
    us, path = os.geteuid(), next(tmp_path.glob(which))
    if us == 0:
        os.chown(path, 12345, -1)
    owner, other = (12345, 0) if us == 0 else (us, us + 1)
    found = trustdir.load(tmp_path, user=other)
    assert found.peers == {}
    assert f"belongs to user {owner}, who may change it: chown {other} " in found.broken[0]
    assert trustdir.load(tmp_path, user=owner).peers == pins(ONE)


def test_what_is_saved_under_a_careless_umask_is_trusted(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        trustdir.save(tmp_path / "trust.d", trustdir.PEERS, raw(ONE))
    finally:
        os.umask(before)
    assert trustdir.load(tmp_path / "trust.d") == (pins(ONE), {}, {}, {}, ())


def test_who_cannot_look_just_now_says_nothing_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trustdir.save(tmp_path, trustdir.PEERS, raw(ONE))

    def listdir(path: Path) -> list[str]:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(OSError, match="Too many open files"):
        trustdir.load(tmp_path)
