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
