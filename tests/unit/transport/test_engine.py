"""What we rely on inside aioquic, and what happens when it trips over a peer's bytes."""

import asyncio

import aioquic
import pytest
from aioquic import tls
from aioquic.quic import connection, crypto, packet_builder, recovery
from quic_rig import run, served, until

from fabricbios.errors import Disconnected
from fabricbios.transport import DEFAULTS, accept_anyone
from fabricbios.transport.quic import ClientConnection, unix_now


def test_the_version_is_the_one_whose_inside_we_know() -> None:
    """Another one needs tls.py and quic.py read against it again, then this number changed."""
    assert aioquic.__version__ == "1.7.2"


def test_what_is_wrapped_and_overridden_is_there() -> None:
    quic = ClientConnection(None, DEFAULTS, unix_now, accept_anyone)
    quic.connect(("127.0.0.1", 1), 0.0)
    assert vars(quic.tls)["_client_handle_certificate"].__qualname__.startswith("check_server")
    for name in (
        "_server_handle_hello",
        "_server_handle_certificate",
        "_server_handle_certificate_verify",
        "_server_expect_finished",
    ):
        assert callable(getattr(tls.Context, name))
    for name in (
        "_write_connection_limits",
        "_write_stream_frame",
        "_write_stream_limits",
        "_parse_transport_parameters",
        "_payload_received",
        "_initialize",
    ):
        assert callable(getattr(super(ClientConnection, quic), name))


def test_epochs_hash_without_python_and_no_table_is_older_than_that() -> None:
    assert tls.Epoch.__hash__ is object.__hash__
    tables = [
        f"{module.__name__}.{name}"
        for module in (tls, connection, crypto, packet_builder, recovery)
        for name, value in vars(module).items()
        if isinstance(value, dict | set | frozenset) and any(isinstance(key, tls.Epoch) for key in value)
    ]
    assert tables == []


def test_a_fault_of_the_engine_costs_only_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with served() as rig:
            link = await rig.dial()
            await link.request(b"hello")
            session = next(iter(rig.server._sessions.values()))

            def trip(*_: object) -> None:
                raise AssertionError("a check that aioquic lacks")

            monkeypatch.setattr(session.quic, "receive_datagram", trip)
            link.ask(b"x")
            await until(lambda: rig.server.faults["engine_fault"] == 1)
            assert rig.server.connections == 0
            assert rig.echo.closed == [1]
            await rig.assert_friend_is_served()

            other = await rig.dial()
            monkeypatch.setattr(other._quic, "receive_datagram", trip)
            _, answer = other.ask(b"x")
            with pytest.raises(Disconnected, match="cannot be"):
                await asyncio.wait_for(answer, 60)
            link.close()

    run(body)
