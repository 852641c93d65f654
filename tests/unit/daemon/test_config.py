"""What of a configuration is refused, because it would not say what it seems to, or others could have written it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fabricbios.daemon.config import load
from fabricbios.errors import ConfigError
from fabricbios.model import Perm

PEER = "0x" + "ab" * 16


def written(directory: Path, text: str) -> Path:
    path = directory / "node.toml"
    path.write_text(text)
    path.chmod(0o644)
    return path


def test_a_permission_named_twice_is_no_other_one(tmp_path: Path) -> None:
    path = written(tmp_path, "[policy.default]\nperms = ['read', 'read']\n")
    assert load(path, {}).policy.default.perms is Perm.READ


@pytest.mark.parametrize("name", ["0xab", "ab" * 16, "0x" + "ab" * 17, "0x" + "a_" * 16])
def test_a_limit_for_a_mistyped_id_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="a peer is its id, 0x and 32 digits"):
        load(written(tmp_path, f"[policy.peer.'{name}']\nmax_leases = 1\n"), {})


def test_one_peer_in_two_spellings_is_an_error(tmp_path: Path) -> None:
    text = "".join(
        f"[policy.peer.'{name}']\nmax_leases = {n}\n" for n, name in enumerate((PEER, PEER.replace("b", "B")))
    )
    with pytest.raises(ConfigError, match="there already"):
        load(written(tmp_path, text), {})


@pytest.mark.parametrize("which", ["node.toml", ".", "conf.d", "conf.d/10.toml"])
def test_what_others_may_write_is_refused_with_the_remedy(tmp_path: Path, which: str) -> None:
    path = written(tmp_path, "")
    (tmp_path / "conf.d").mkdir(mode=0o755)
    (tmp_path / "conf.d" / "10.toml").write_text("")
    load(path, {})
    wrong = tmp_path / which
    wrong.chmod(0o777)
    with pytest.raises(ConfigError, match=rf"{wrong} can be written by others \(mode 0777\): chmod go-w {wrong}"):
        load(path, {})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_another_users_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match=rf"{path} belongs to user 12345, who may change it: chown 0 {path}"):
        load(path, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("relay = [5]", "relay: 5 is not text"),
        ("metrics = 5", "metrics: 5 is not text"),
        ("bind = 5", "bind: 5 is not text"),
        ("block = 5", "block: 5 is not text"),
        ("block = [['a']]", r"block: \['a'\] is not text"),
        ("dp_auth = [1]", "dp_auth: '1' is none of"),
        ("[policy.default]\nmax_leases = -1", "max_leases: -1 is not a number of leases"),
        ("[policy.default]\nmax_leases = 1.5", "max_leases: 1.5 is not a number of leases"),
        ("[policy.default]\nmax_leases = true", "max_leases: True is not a number of leases"),
        ("[policy.default]\nkinds = 'mem'", "kinds: 'mem' is not a list of words"),
        ("[policy.default]\nperms = 5", "perms: 5 is not a list of words"),
    ],
)
def test_a_value_of_another_type_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"node.toml: .*{said}"):
        load(written(tmp_path, text + "\n"), {})
