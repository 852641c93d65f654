"""The debugging client: what is typed wrong is one line, and nothing was sent."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from fabricbios.daemon.control_client import control_client
from fabricbios.errors import ConfigError


def test_a_parameter_that_is_missing_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(control_client, ["lease-renew", "--ttl", "5s", "--identity", str(tmp_path)])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception) == "LEASE_RENEW wants --lease-id"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--token", "zz"), "non-hexadecimal"),
        (("--resource", "zz"), "'zz'"),
        (("-H", "127.0.0.1:x"), "is not HOST:PORT"),
        (("-H", f"{'a' * 70}:1"), "no host's name"),
    ],
)
def test_what_is_typed_wrong_is_a_configuration_error(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(control_client, ["ping", "--identity", str(tmp_path), *words])
    assert isinstance(done.exception, ConfigError)
    assert said in str(done.exception)
    assert list(tmp_path.iterdir()) == []
