"""`fabricbios identity` and `fabricbios trust`: keys on disk, one-line errors, documents with schemas."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner, Result
from discovery_rig import key, node_id, raw, store, stream_peer

from fabricbios.cli.main import cli
from fabricbios.client.known_nodes import FILE, KnownNodes
from fabricbios.core.trust import TrustMode, TrustStore
from fabricbios.errors import ConfigError
from fabricbios.model import Instant, hex128
from fabricbios.transport import trustdir
from fabricbios.transport.identity import Identity
from fabricbios.wire.certificate import Certificate

SCHEMAS = Path(__file__).parents[3] / "docs/schema"
ONE = key(1)


class Admin:
    """Somebody at a shell, with a directory of their own."""

    def __init__(self, home: Path) -> None:
        self.home, self.trust, self.state = home / "me", home / "trust.d", home / "state"

    def run(self, *words: str, directories: bool = True) -> Result:
        extra = ["--trust-dir", str(self.trust)] if directories else []
        runner = CliRunner()
        result = runner.invoke(cli, ["--identity", str(self.home), *words, *extra], standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return result

    def document(self, schema: str, *words: str, directories: bool = True) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run(*words, "--json", directories=directories).output)
        jsonschema.validate(found, json.loads((SCHEMAS / f"{schema}.json").read_text()))
        return found

    def show(self) -> dict[str, Any]:
        return self.document("trust", "trust", "show", "--state-dir", str(self.state))


@pytest.fixture
def admin(tmp_path: Path) -> Admin:
    return Admin(tmp_path)


def test_an_identity_is_made_on_first_use_and_stays(admin: Admin) -> None:
    first = admin.document("identity", "identity", directories=False)
    assert first == admin.document("identity", "identity", "show", directories=False)
    assert trustdir.from_pem(first["pem"].encode()).hex() == first["public_key"]
    assert first["certificate"] is None
    assert "PRIVATE" not in json.dumps(first)
    assert first["node_id"] in admin.run("identity", directories=False).output


def test_a_new_identity_must_be_meant(admin: Admin) -> None:
    first = admin.document("identity", "identity", "new", directories=False)
    with pytest.raises(ConfigError, match="--force"):
        admin.run("identity", "new", directories=False)
    assert admin.document("identity", "identity", "new", "--force", directories=False)["node_id"] != first["node_id"]
    assert (admin.home / "node.key.old").exists()


def test_pin_show_forget(admin: Admin) -> None:
    assert "nobody" in admin.run("trust", "show").output
    pinned = admin.document("trust-change", "trust", "pin", raw(ONE).hex())
    assert pinned["node_id"] == hex128(node_id(ONE))
    admin.run("trust", "pin", "--controller", raw(key(2)).hex())
    admin.run("trust", "approve", raw(key(3)).hex())
    shown = admin.show()
    assert [len(shown[k]) for k in ("pinned", "controller", "approved", "learned")] == [1, 1, 1, 0]
    gone = admin.document("trust-change", "trust", "forget", pinned["node_id"][:10], "--state-dir", str(admin.state))
    assert gone["paths"] == pinned["paths"]
    assert admin.show()["pinned"] == []
    with pytest.raises(ConfigError, match="no key here"):
        admin.run("trust", "forget", pinned["node_id"])


def test_what_a_claim_taught_is_shown_and_forgotten(admin: Admin) -> None:
    trustdir.save(admin.state / trustdir.LEARNED, trustdir.PEERS, raw(ONE))
    assert admin.show()["learned"][0]["public_key"] == raw(ONE).hex()
    admin.run("trust", "forget", hex128(node_id(ONE)), "--state-dir", str(admin.state))
    assert admin.show()["learned"] == []


def test_a_broken_file_is_shown(admin: Admin) -> None:
    (admin.trust / "peers").mkdir(parents=True)
    (admin.trust / "peers/x.pem").write_text("junk")
    assert "x.pem: not a public key" in admin.show()["broken"][0]
    assert "x.pem" in admin.run("trust", "show").stderr


@pytest.mark.parametrize("junk", ["nosuch.pem", "abc", "0x12"])
def test_what_is_no_key_is_told_with_a_remedy(admin: Admin, junk: str) -> None:
    with pytest.raises(ConfigError, match="name a PEM file"):
        admin.run("trust", "pin", junk)


def test_a_controller_certifies_us_and_a_node_believes_it(admin: Admin) -> None:
    made = admin.document("trust-change", "trust", "init-ca", directories=False)
    assert made == admin.document("trust-change", "trust", "init-ca", directories=False)
    controller = trustdir.from_pem(Path(made["paths"][0]).read_bytes())
    admin.run("trust", "issue", "--days", "3")
    me = Identity.load(admin.home)
    found = Certificate.unpack(me.certificate)
    now = Instant(0, found.issued_at * 1000)
    node = TrustStore(TrustMode.CERTIFIED, store(controllers={int(made["node_id"], 16): controller})._keys)
    peer = stream_peer(me.private_key, me.certificate)
    assert node.trusted(peer, now)
    assert not node.trusted(peer, now._replace(unix_ms=now.unix_ms + 3 * 86_400_000))
    shown = admin.document("identity", "identity", directories=False)["certificate"]
    assert (shown["issuer"], shown["in_its_dates"]) == (made["node_id"], True)
    assert "holds until" in admin.run("identity", directories=False).output


def test_certifying_another_by_its_id(admin: Admin, tmp_path: Path) -> None:
    admin.run("trust", "init-ca", directories=False)
    admin.run("trust", "approve", raw(ONE).hex())
    out = tmp_path / "one.cert"
    admin.run("trust", "issue", hex128(node_id(ONE))[:12], "--out", str(out))
    assert Certificate.unpack(out.read_bytes()).public_key == raw(ONE)
    assert Identity.load(admin.home).certificate == b""


def test_issuing_wants_a_controller(admin: Admin) -> None:
    with pytest.raises(ConfigError, match="init-ca"):
        admin.run("trust", "issue")


def test_forgetting_a_node_that_changed_its_key(admin: Admin) -> None:
    KnownNodes(admin.home / FILE).pin("192.0.2.1", 5701, raw(ONE))
    gone = admin.document("trust-change", "trust", "forget", "192.0.2.1:5701")
    assert gone["node_id"] == hex128(node_id(ONE))
    with pytest.raises(ConfigError, match="no key is known"):
        admin.run("trust", "forget", "192.0.2.1:5701")
