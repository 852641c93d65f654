"""SSLKEYLOGFILE is written by whoever dials, and by nobody else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from quic_rig import run, served

from fabricbios.errors import ConfigError
from fabricbios.transport import DEFAULTS, accept_anyone
from fabricbios.transport.keylog import VARIABLE
from fabricbios.transport.quic import ClientConnection, unix_now

LABELS = (
    "CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_HANDSHAKE_TRAFFIC_SECRET",
    "CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0",
)  # fmt: skip


async def dial_twice() -> None:
    async with served() as rig:
        for _ in range(2):
            link = await rig.dial()
            await link.request(b"hello")
            link.close()


def test_each_dialled_connection_writes_its_secrets_and_the_server_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    monkeypatch.setenv(VARIABLE, str(path))
    run(dial_twice)
    lines = [line.split() for line in path.read_text().splitlines()]
    assert Counter(label for label, _, _ in lines) == dict.fromkeys(LABELS, 2)  # the server is of this process, too
    assert len({random for _, random, _ in lines}) == 2
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("value", [None, ""])
def test_nothing_is_written_unasked(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    assert ClientConnection(None, DEFAULTS, unix_now, accept_anyone)._configuration.secrets_log_file is None


def test_a_file_that_cannot_be_written_is_said_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "no" / "such"))
    with pytest.raises(ConfigError, match=r"SSLKEYLOGFILE.*No such file"):
        ClientConnection(None, DEFAULTS, unix_now, accept_anyone)
